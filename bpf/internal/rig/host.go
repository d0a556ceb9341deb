// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Device is one Ethernet device of a Host.
type Device struct {
	Name  string
	Index uint32
	MAC   net.HardwareAddr

	OtherEnd uint32 // ifindex of what it is connected with
}

// Host is an anonymous network namespace with loopback up and a number of
// Ethernet devices, which are up and have carrier.
type Host struct {
	Loopback Device
	Devices  []Device
	Cookie   uint64 // by which programs know the namespace; 0 where the kernel does not show it (Linux 5.14)

	ns netns.NsHandle
}

// NewHost makes a namespace with that many devices, eth0 and up. The other end
// of each is in the same namespace and takes no part. Needs root.
func NewHost(devices int) (*Host, error) {
	host := &Host{ns: netns.None()}
	err := onOwnThread(func() error {
		ns, err := netns.New()
		if err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		host.ns = ns
		if host.Cookie, err = namespaceCookie(); err != nil {
			return err
		}
		return host.addDevices(devices)
	})
	if err != nil {
		return nil, errors.Join(err, host.Close())
	}
	return host, nil
}

// namespaceCookie is that of the calling thread's network namespace.
func namespaceCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("make socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the cookie of the network namespace: %w", err)
	}
	return cookie, nil
}

// onOwnThread calls f on a thread that ends with it, so that whatever f does to
// the thread's namespaces concerns nobody else.
func onOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

func (h *Host) addDevices(count int) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	h.Loopback = Device{Name: "lo", Index: uint32(lo.Attrs().Index)}
	for i := range count {
		device, err := addDevice(fmt.Sprintf("eth%d", i), net.HardwareAddr{2, 0, 0, 0, 0, byte(0x10 + i)})
		if err != nil {
			return err
		}
		h.Devices = append(h.Devices, device)
	}
	return nil
}

func addDevice(name string, mac net.HardwareAddr) (Device, error) {
	link := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: mac},
		PeerName:  name + "-peer",
	}
	if err := netlink.LinkAdd(link); err != nil {
		return Device{}, fmt.Errorf("add %s: %w", name, err)
	}
	device := Device{Name: name, MAC: mac}
	for name, index := range map[string]*uint32{name: &device.Index, link.PeerName: &device.OtherEnd} {
		end, err := netlink.LinkByName(name)
		if err != nil {
			return Device{}, fmt.Errorf("find %s: %w", name, err)
		}
		if err := netlink.LinkSetUp(end); err != nil {
			return Device{}, fmt.Errorf("set %s up: %w", name, err)
		}
		*index = uint32(end.Attrs().Index)
	}
	return device, nil
}

// linkTime bounds how long the kernel takes to act upon a carrier.
const linkTime = 10 * time.Second

// TimesDown is how often the device lost its carrier, as the low bits of the kernel's count. It is called inside of Do.
func (d Device) TimesDown() (uint16, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(d.Index)
	request.AddData(message)
	answers, err := request.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", d.Name, err)
	}
	attributes, err := nl.ParseRouteAttr(answers[0][unix.SizeofIfInfomsg:])
	for _, a := range attributes {
		if a.Attr.Type == unix.IFLA_CARRIER_DOWN_COUNT {
			return uint16(binary.NativeEndian.Uint32(a.Value)), err
		}
	}
	return 0, errors.Join(err, fmt.Errorf("%s: the kernel does not tell how often it went down", d.Name))
}

// SetCarrier gives a device a carrier or takes it away, and returns when the kernel has acted upon it. It is
// called inside of Do.
func (d Device) SetCarrier(on bool) error {
	set, want := netlink.LinkSetDown, netlink.LinkOperState(netlink.OperLowerLayerDown)
	if on {
		set, want = netlink.LinkSetUp, netlink.OperUp
	}
	if err := set(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(d.OtherEnd)}}); err != nil {
		return fmt.Errorf("set carrier of %s to %t: %w", d.Name, on, err)
	}
	for deadline := time.Now().Add(linkTime); ; {
		link, err := netlink.LinkByIndex(int(d.Index))
		if err != nil {
			return fmt.Errorf("look at %s: %w", d.Name, err)
		}
		state := link.Attrs().OperState
		if state == want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is %s, not %s, after %s", d.Name, state, want, linkTime)
		}
	}
}

// Do calls f on a thread of its own that is inside the namespace. Goroutines that f starts are not.
func (h *Host) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// Pin keeps the calling thread on one CPU, so that per-CPU maps stay the same ones.
func Pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to cpu %d: %w", cpu, err)
	}
	return nil
}

// AddAddress gives a device an address of its own.
func (h *Host) AddAddress(device Device, address netip.Addr) error {
	return h.change(device, address, func(link netlink.Link) error {
		return netlink.AddrAdd(link, &netlink.Addr{IPNet: alone(address), Flags: unix.IFA_F_NODAD})
	})
}

// alone is the network of one address.
func alone(address netip.Addr) *net.IPNet {
	return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(address.BitLen(), address.BitLen())}
}

// change changes something of a device.
func (h *Host) change(device Device, what any, how func(netlink.Link) error) error {
	return h.Do(func() error {
		if err := how(device.link()); err != nil {
			return fmt.Errorf("change %v of %s: %w", what, device.Name, err)
		}
		return nil
	})
}

func (d Device) link() netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(d.Index), Name: d.Name}}
}

// AddRoute routes an address to a device.
func (h *Host) AddRoute(device Device, to netip.Addr) error {
	return h.change(device, to, func(netlink.Link) error {
		return netlink.RouteAdd(&netlink.Route{LinkIndex: int(device.Index), Dst: alone(to), Scope: netlink.SCOPE_LINK})
	})
}

// AddNeighbour says which MAC an address has behind a device, so that nobody is asked.
func (h *Host) AddNeighbour(device Device, address netip.Addr, mac net.HardwareAddr) error {
	return h.change(device, address, func(netlink.Link) error {
		return netlink.NeighAdd(&netlink.Neigh{
			LinkIndex: int(device.Index), State: netlink.NUD_PERMANENT, IP: address.AsSlice(), HardwareAddr: mac,
		})
	})
}

// SetMTU gives a device this MTU, which helpers look at that know no interface's record.
func (h *Host) SetMTU(device Device, mtu int) error {
	return h.change(device, "the MTU", func(link netlink.Link) error { return netlink.LinkSetMTU(link, mtu) })
}

// Close removes the namespace and its devices once nothing else holds it.
func (h *Host) Close() error {
	if !h.ns.IsOpen() {
		return nil
	}
	return h.ns.Close()
}
