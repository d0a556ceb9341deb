// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/nexthop"
)

// Metric is that of the routes: behind every other, the kernel's largest excepted.
const Metric uint32 = 1<<32 - 2

// The routes lead through gateways that nobody has, so that all peers share one
// neighbour entry: without them each would take one of its own, of which there are
// 1024 for a start (net.ipv4.neigh.default.gc_thresh3).
var (
	gateway4 = net.IPv4(192, 0, 0, 8).To4() // the dummy address of RFC 7600, 4.8
	gateway6 = net.ParseIP("fe80::1")
)

// Families are unix.AF_INET and unix.AF_INET6.
var Families = []int{unix.AF_INET, unix.AF_INET6}

func routeOf(family, device int) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: device,
		Table:     unix.RT_TABLE_MAIN,
		Protocol:  discover.OwnProtocol,
		Priority:  int(Metric),
		Flags:     int(netlink.FLAG_ONLINK),
		Dst:       &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
		Gw:        gateway4,
	}
	if family == unix.AF_INET6 {
		r.Dst, r.Gw = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}, gateway6
	}
	return r
}

// asking is the route with a program that the kernel asks about what it sends by it.
func asking(r *netlink.Route, program *ebpf.Program) (*netlink.Route, error) {
	info, err := program.Info()
	if err != nil {
		return nil, fmt.Errorf("read about the program of the fallback routes: %w", err)
	}
	id, _ := info.ID() // from 4.13
	// The kernel takes routes for alike whose programs have one name (net/core/lwt_bpf.c, bpf_lwt_prog_cmp).
	r.Encap = &programEncap{fd: program.FD(), name: fmt.Sprintf("%s %d", info.Name, id)}
	return r, nil
}

// programEncap has what a route is to send out go through a program. It is a netlink.BpfEncap but for its Encode:
// that one writes to a variable of the package (in v1.3.1), which whoever follows the neighbours reads meanwhile.
type programEncap struct {
	netlink.BpfEncap
	fd   int
	name string
}

// Encode returns the attributes of RTA_ENCAP (include/uapi/linux/lwtunnel.h).
func (e *programEncap) Encode() ([]byte, error) {
	out := nl.NewRtAttr(nl.LWT_BPF_OUT, nil)
	out.AddRtAttr(nl.LWT_BPF_PROG_FD, nl.Uint32Attr(uint32(e.fd)))
	out.AddRtAttr(nl.LWT_BPF_PROG_NAME, nl.ZeroTerminated(e.name))
	return out.Serialize(), nil
}

// write adds or changes a route that asks a program, or where there is none, or the kernel is built without
// such (CONFIG_LWTUNNEL_BPF), a plain one.
func write(how, family int, d *Device, program *ebpf.Program) error {
	if program != nil && !d.Plain { // each try has the kernel look for a module
		r, err := asking(routeOf(family, d.Index), program)
		if err != nil {
			return err
		}
		if err := send(how, r); !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		d.Plain = true
	}
	return send(how, routeOf(family, d.Index))
}

// syncRoutes makes the families that have a route to the device the wanted ones,
// where `present` have one now. It returns those that have one then. They ask the program about what they
// are to send, where it is not nil.
func syncRoutes(nl *netlink.Handle, d *Device, program *ebpf.Program, present, wanted []int) (there []int, err error) {
	var errs []error
	for _, family := range Families {
		is, want := slices.Contains(present, family), slices.Contains(wanted, family)
		switch {
		case want && is:
			there = append(there, family)
		case want:
			err := write(toAdd, family, d, program)
			if err != nil && !errors.Is(err, unix.EEXIST) {
				errs = append(errs, fmt.Errorf("add the %s fallback route: %w", Name(family), err))
				continue
			}
			there = append(there, family)
		case is:
			err := nl.RouteDel(routeOf(family, d.Index))
			if err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("delete the %s fallback route: %w", Name(family), err))
				there = append(there, family)
			}
		}
	}
	return there, errors.Join(errs...)
}

// renew replaces the route of a family, if it is there, by one that asks this program, or none where it is nil.
// IPv6 sockets that remember a default route of table main look for one anew then (net/ipv6/ip6_fib.c,
// fib6_add, gives each route at the same place another serial number).
func renew(d *Device, program *ebpf.Program, family int) error {
	err := write(toChange, family, d, program)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENETDOWN) {
		return fmt.Errorf("renew the %s fallback route: %w", Name(family), err)
	}
	return nil
}

// RenewAll has the fallback routes that there are ask a program, or none where it is nil.
func RenewAll(nl *netlink.Handle, device *Device, program *ebpf.Program) error {
	routers, err := nexthop.FindOwn()
	if err != nil {
		return err
	}
	var errs []error
	for _, route := range routers.Fallback {
		if route.Interface == device.Index {
			errs = append(errs, renew(device, program, route.Family))
		}
	}
	return errors.Join(errs...)
}

// Name is how the metrics call a family.
func Name(family int) string {
	if family == unix.AF_INET {
		return "ipv4"
	}
	return "ipv6"
}

// How the kernel takes a route, beside what is there already.
const (
	toAdd    = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	toAppend = unix.NLM_F_CREATE | unix.NLM_F_APPEND // of one metric, IPv4 takes several only so
	toChange = unix.NLM_F_REPLACE
)

// lowPreference is that of a router which is to be used where no other can be (RFC 4191, 2.1). Of the IPv6 routes behind the
// first usable metric the kernel takes the one that is preferred, whatever their metrics (find_rr_leaf() in net/ipv6/route.c).
// By reading: without CONFIG_IPV6_ROUTER_PREF a gateway that answers goes before one that nobody has asked.
const lowPreference = 3

// send writes a default route of the main table. The library leaves out its preference.
func send(how int, r *netlink.Route) error {
	family := nl.GetIPFamily(r.Gw)
	message := nl.NewRtMsg() // a unicast route of the main table
	message.Family, message.Protocol, message.Flags = uint8(family), uint8(r.Protocol), uint32(r.Flags)
	request := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, how|unix.NLM_F_ACK)
	request.AddData(message)
	add := func(attribute int, value []byte) { request.AddData(nl.NewRtAttr(attribute, value)) }
	add(unix.RTA_OIF, nl.Uint32Attr(uint32(r.LinkIndex)))
	add(unix.RTA_GATEWAY, r.Gw)
	add(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(r.Priority)))
	if family == unix.AF_INET6 {
		add(unix.RTA_PREF, []byte{lowPreference})
	}
	if r.Encap != nil {
		encap, err := r.Encap.Encode()
		if err != nil {
			return err
		}
		add(unix.RTA_ENCAP_TYPE, nl.Uint16Attr(uint16(r.Encap.Type())))
		add(unix.RTA_ENCAP|unix.NLA_F_NESTED, encap)
	}
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
