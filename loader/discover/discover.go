// SPDX-License-Identifier: Apache-2.0

// Package discover finds the interfaces that replypath manages, the networks
// that are directly connected to them, and the host's own addresses.
package discover

import (
	"net"
	"net/netip"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
	"replypath/loader/pins"
)

// OwnDevice is the name of the device that replypath makes for itself. It is
// never managed.
const OwnDevice = "replypath0"

// OwnProtocol marks the routes and rules that replypath makes.
const OwnProtocol = dump.OwnProtocol

// BoundMetric is that of replypath's default routes for sockets that are bound to a device, the kernel's largest: who
// is not bound has the fallback route before.
const BoundMetric uint32 = 1<<32 - 1

// Interface is a managed interface.
type Interface struct {
	Index    int
	Name     string
	AltNames []string
	MAC      net.HardwareAddr // nil on devices without an Ethernet header, such as tun and WireGuard
	MTU      int              // in bytes, without the Ethernet header
	Up       bool             // administratively up and with a carrier
	VRF      int              // index of the VRF device that it is a port of; 0 for none
	Table    int              // of routes that is the VRF's; 0 for none
	Group    int              // of devices, by which a rule may suppress routes
	Lower    int              // index of the device that its frames pass as well: a macvlan's; 0 for none
	NoARP    bool             // the kernel resolves no neighbours here: IFF_NOARP, or no Ethernet header
	// Addresses are the global unicast addresses with their prefix length, in
	// the kernel's order, host bits kept.
	Addresses []netip.Prefix
	// Settings are those of the entry of the configuration that matched, with
	// Mode and NextHop filled in. Without an entry, Name is the interface's.
	Settings config.Interface
	// Named tells that the configuration names the interface, by whatever name
	// or glob; else it was discovered.
	Named bool
	// OwnOnly tells that only requests for the interface's own addresses are recorded: nobody named it, and it is a tunnel, a
	// bridge with a guest, or PPP or a modem that no route leads out of.
	OwnOnly bool
	// Guest tells a bridge whose port is that of a container or virtual machine, which may be a router that no route names.
	Guest bool
	// TakesAll4 and TakesAll6 tell that what comes in by the interface is for nobody else: it forwards nothing of the family.
	TakesAll4, TakesAll6 bool
	// Strict tells that rp_filter is strict: what arrives by IPv4 is dropped if the kernel answers by another interface.
	Strict bool
	// Catches tells that the interface is not managed, and that replies which leave by it are caught.
	Catches bool
}

// IsUntended tells a bridge with a guest that nobody named: most guests are no routers, so that no setting is changed for it.
func (i *Interface) IsUntended() bool { return i.Guest && i.OwnOnly }

// Unmanaged is an interface that is left alone.
type Unmanaged = pins.UnmanagedRecord

// OnLink is a network whose hosts are reached from a managed interface without
// a router.
type OnLink struct {
	Interface int          // index
	Prefix    netip.Prefix // masked; neither a default route nor a link-local network
	Routed    bool         // a route says so, by which the kernel finds a peer's MAC; else an address alone
}

// OwnAddress is a global unicast address of any interface of this network
// namespace, managed or not, in whatever state duplicate address detection has
// left it.
type OwnAddress struct {
	Address      netip.Addr
	LoopbackOnly bool // only lo or dummy devices carry it
	Interface    int  // index of the only one that carries it; 0: several do
}

// OwnPrefix is a network all of whose addresses are this host's although no
// interface has them, as `ip route add local 10.9.0.0/24 dev lo` makes it in
// the local table. An OwnAddress inside it goes first.
type OwnPrefix struct {
	Prefix       netip.Prefix // masked, more than one address
	LoopbackOnly bool         // the route leads to lo or a dummy device
}

// Result is what Scan found. Interfaces, Caught and Unmanaged are in the order of
// their index, OnLink by index and prefix, the rest by address.
type Result struct {
	Interfaces []Interface
	Caught     []Interface // those of the unmanaged ones that routes lead out of; none where nothing is managed
	Uncaught   []Unmanaged // others that routes lead out of: replies leave there unseen
	Unmanaged  []Unmanaged
	Nameless   []Unmanaged // those tunnels and bridges with a guest that would be managed if the configuration named them
	// Headerless tells that replies may be caught one day on an interface that is not managed and has no Ethernet header.
	Headerless  bool
	OnLink      []OnLink
	Own         []OwnAddress
	OwnPrefixes []OwnPrefix
	// Missing are the configured names, globs apart, that no interface has.
	Missing []string
	// Warnings name what the configuration asks for and what has no effect, or
	// none yet, one line each.
	Warnings []string
	// Bystanders are among the unmanaged interfaces.
	Bystanders Bystanders
}
