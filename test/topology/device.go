// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addDevice makes a device that is no end of a cable, by words of "ip link add" in which MAC stands for one of the
// host's, sets it up and gives it its addresses. One without addresses is never waited for: it may have no port, or no
// IPv6.
func (h *Host) addDevice(name, words string, addresses []netip.Prefix) (*Interface, error) {
	nic := NIC{Host: h, Name: name, Addresses: addresses}
	nic.chooseMAC()
	args := strings.Fields("link add name " + name + " " + strings.ReplaceAll(words, "MAC", nic.MAC.String()))
	output, err := h.Command(context.Background(), "ip", args...).CombinedOutput()
	if lacks := regexp.MustCompile("Unknown device type|Operation not supported"); lacks.Match(output) {
		err = unix.EOPNOTSUPP // the kernel does not have the kind
	}
	if err != nil {
		return nil, h.errorf("ip %q: %w: %s", args, err, output)
	}
	i, err := nic.configure()
	if err != nil {
		return nil, err
	}
	link, err := i.Link()
	if err != nil {
		return nil, err
	}
	i.MAC = link.Attrs().HardwareAddr
	if len(addresses) > 0 {
		n := h.network
		n.mu.Lock()
		n.interfaces = append(n.interfaces, i)
		n.mu.Unlock()
	}
	return i, nil
}

// AddMacvlan makes a macvlan device (bridge mode) above an interface. It has a MAC of its own; its Peer is the other
// end of the interface's cable.
func (i *Interface) AddMacvlan(name string, addresses ...netip.Prefix) (*Interface, error) {
	m, err := i.Host.addDevice(name, "link "+i.Name+" address MAC type macvlan mode bridge", addresses)
	if err == nil {
		m.peer = i.peer
	}
	return m, err
}

// AddVLAN makes a VLAN device above an interface, with its MAC. The Peer is to be set with PeerWith, as there is none
// before the other end has one too.
func (i *Interface) AddVLAN(name string, id int, addresses ...netip.Prefix) (*Interface, error) {
	return i.Host.addDevice(name, fmt.Sprintf("link %s address %s type vlan id %d", i.Name, i.MAC, id), addresses)
}

// AddBond makes a bond of which one port is in use at a time. Its MAC is that of the port in use.
func (h *Host) AddBond(name string) (*Interface, error) {
	return h.addDevice(name, "type bond mode active-backup miimon 10 fail_over_mac active", nil)
}

// AddVRF makes a VRF with a routing table of its own (Documentation/networking/ vrf.rst in the kernel).
func (h *Host) AddVRF(name string, table uint32) (*Interface, error) {
	return h.addDevice(name, fmt.Sprintf("address MAC type vrf table %d", table), nil)
}

// AddDummy makes a device that does no more than hold addresses.
func (h *Host) AddDummy(name string, addresses ...netip.Prefix) (*Interface, error) {
	return h.addDevice(name, "address MAC type dummy", addresses)
}

// AddWireGuard makes a WireGuard device. Its keys and peers are left to the caller.
func (h *Host) AddWireGuard(name string, addresses ...netip.Prefix) (*Interface, error) {
	return h.addDevice(name, "type wireguard", addresses)
}

// VXLAN describes a tunnel between two hosts (RFC 7348).
type VXLAN struct {
	Name string
	// ID is the VXLAN network identifier.
	ID int
	// Local and Remote are the addresses of the tunnel's ends; Remote may be left out.
	Local, Remote netip.Addr
	// SamePort has the outer datagrams come from the port that they go to, rather than from one that differs by inner
	// flow.
	SamePort  bool
	Addresses []netip.Prefix
}

// addVXLAN makes one end of a tunnel, whose MTU leaves room for the outer headers on an Ethernet of either family.
func (h *Host) addVXLAN(v VXLAN) (*Interface, error) {
	words := fmt.Sprintf("address MAC mtu 1430 type vxlan id %d dstport 4789 local %s", v.ID, v.Local)
	if v.Remote.IsValid() {
		words += " remote " + v.Remote.String()
	}
	if v.SamePort {
		words += " srcport 4789 4790" // the kernel takes a port below the upper bound
	}
	return h.addDevice(v.Name, words, v.Addresses)
}

// Tunnel makes both ends of a tunnel, each the other's Peer.
func (n *Network) Tunnel(a *Host, endA VXLAN, b *Host, endB VXLAN) (*Interface, *Interface, error) {
	ia, err := a.addVXLAN(endA)
	if err != nil {
		return nil, nil, err
	}
	ib, err := b.addVXLAN(endB)
	if err != nil {
		return nil, nil, err
	}
	ia.peer, ib.peer = ib, ia
	return ia, ib, nil
}

// Device is what kind of device a server's interface is.
type Device int

// The kinds.
const (
	// Cable is the end of a cable itself.
	Cable Device = iota
	// MacvlanDevice is a macvlan above the end of the cable.
	MacvlanDevice
	// BridgeDevice is a bridge that the end of the cable is a port of.
	BridgeDevice
)

// above makes the device on top of an interface without addresses.
func (d Device) above(nic *Interface, name string, addresses []netip.Prefix) (*Interface, error) {
	if d == MacvlanDevice {
		// Else both devices answer ARP requests for the macvlan's address.
		if err := nic.Host.SetSysctl("net/ipv4/conf/"+nic.Name+"/arp_ignore", "1"); err != nil {
			return nil, err
		}
		return nic.AddMacvlan(name, addresses...)
	}
	b, err := nic.Host.AddBridge(name, addresses...)
	if err != nil {
		return nil, err
	}
	b.peer = nic.peer
	return b.Interface, b.Join(nic)
}

// PeerWith declares two devices to be the ends of one link: VLAN devices above one cable, or tunnels between two hosts.
func (i *Interface) PeerWith(other *Interface) { i.peer, other.peer = other, i }

// Enslave makes an interface a port of a bond or a VRF. The kernel takes it down for that, and its IPv6 addresses away:
// it gets those that it was made with again.
func (i *Interface) Enslave(master *Interface) error {
	link, err := master.Link()
	if err != nil {
		return err
	}
	if err := i.SetDown(); err != nil {
		return err
	}
	err = i.change("make it a port of "+master.Name, func(port netlink.Link) error {
		return i.Host.handle.LinkSetMaster(port, link)
	})
	if err != nil {
		return err
	}
	if err := i.SetUp(); err != nil {
		return err
	}
	for _, address := range i.Addresses {
		err := i.change("restore "+address.String(), func(port netlink.Link) error {
			return i.Host.handle.AddrReplace(port, addressOf(address))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ConnectTun joins two tun devices, whose frames begin with the IP header, and sets both up. This process carries their
// packets.
func (n *Network) ConnectTun(a, b NIC) (*Interface, *Interface, error) {
	ia, fa, err := n.addTun(a)
	if err != nil {
		return nil, nil, fmt.Errorf("connect %s with %s: %w", a, b, err)
	}
	ib, fb, err := n.addTun(b)
	if err != nil {
		return nil, nil, fmt.Errorf("connect %s with %s: %w", a, b, err)
	}
	ia.peer, ib.peer = ib, ia
	go carry(fa, fb)
	go carry(fb, fa)
	return ia, ib, nil
}

// carry writes each packet that one device sends into the other, until the network is closed. What the other does not
// take is lost, as on any wire.
func carry(from, to *os.File) {
	packet := make([]byte, 1<<16)
	for {
		length, err := from.Read(packet)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err == nil {
			_, err = to.Write(packet[:length])
		}
		if errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// addTun makes a device that is there for as long as the file is open.
func (n *Network) addTun(nic NIC) (*Interface, *os.File, error) {
	var file *os.File
	err := nic.Host.Do(func() (err error) {
		file, err = openTun(nic.Name)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("add tun device: %w", err)
	}
	if err := n.onClose(file.Close); err != nil {
		return nil, nil, err
	}
	i, err := nic.configure()
	if err != nil {
		return nil, nil, err
	}
	if nic.MTU != 0 {
		err = i.SetMTU(nic.MTU)
	}
	n.mu.Lock()
	n.interfaces = append(n.interfaces, i)
	n.mu.Unlock()
	return i, file, err
}

// tunRequest is struct ifreq of linux/if.h with its ifr_flags.
type tunRequest struct {
	name  [unix.IFNAMSIZ]byte
	flags uint16
	_     [22]byte
}

// openTun makes a tun device in the namespace of the calling thread.
func openTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request := tunRequest{flags: unix.IFF_TUN | unix.IFF_NO_PI}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return nil, errors.Join(errno, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}
