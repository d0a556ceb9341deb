package fallback

import (
	"errors"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"replypath/loader/attach"
	"replypath/loader/discover"
	"replypath/loader/nexthop"
)

// Target is the device of this index as a place for programs.
func Target(index int) attach.Interface {
	return attach.Interface{Index: index, Name: discover.OwnDevice}
}

// RenewAll has the fallback routes that there are ask a program, or none where it is nil.
func RenewAll(nl *netlink.Handle, device *Device, program *ebpf.Program) error {
	routers, err := nexthop.FindOwn(nl)
	if err != nil {
		return err
	}
	var errs []error
	for _, route := range routers.Fallback {
		if route.Interface == device.Index {
			errs = append(errs, Renew(device, program, route.Family))
		}
	}
	return errors.Join(errs...)
}
