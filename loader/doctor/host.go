package doctor

import (
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/flows"
	"replypath/loader/hostsettings"
	"replypath/loader/nexthop"
)

// Host is a snapshot of a network namespace, as far as checks ask for it.
type Host struct {
	Config     *config.Config
	ConfigPath string
	PinDir     string
	Attached   bool              // a datapath is pinned
	Pinned     bool              // the pin directory is there, whether it may be read or not
	InForce    *InForce          // what it works by, nil for nothing
	Start      Start             // what a start takes
	Unread     map[string]string // parts of the host that this process may not read, by name, and why
	Daemon     *Daemon           // who holds the pin directory, nil for nobody
	// Interfaces are those that are managed, or would be.
	Interfaces  []discover.Interface
	Unmanaged   []discover.Unmanaged
	Astray      []discover.Astray
	OnLink      []discover.OnLink
	Own         []discover.OwnAddress
	Devices     []Device // every interface, managed or not
	Routes      []Route  // those that one of the checks asks for
	Rules       []Rule
	Gateways    []nexthop.Gateway
	Neighbours  []Neighbour
	NeighTables map[int]NeighTable // by family: unix.AF_INET, unix.AF_INET6
	Settings    map[string]int     // sysctls by key; missing where the kernel has none
	Firewall    Firewall
	Hooks       []Hook
	TCX         bool // the kernel has it, so that ours runs before all filters
	Flows       []flows.Flow
	WrongWays   []WrongWay
	FlowError   string // why the flow table cannot be read, empty where there is none or it can
	Sockets     []Socket
	RuleLines   []RuleLine
	Firewalld   *Firewalld // nil: not installed
	IPVS        int        // virtual services of the kernel's load balancer
	Offloaded   []string   // devices that IPsec packets are offloaded to, once each
	// Enforcing are the managed interfaces on which replies are corrected, by index;
	// none where nothing is attached, or where it cannot be told.
	Enforcing map[int]bool
	// Uses are what this host opened from addresses that rules select by.
	Uses []Use
	// UsesError is why they cannot be told, empty where they can.
	UsesError string
}

// Daemon is a running replypath.
type Daemon struct {
	PID  int  // 0 where it cannot be told, or is of another PID namespace
	Unit bool // it was started by the unit
}

// Device is an interface with what may matter for the datapath.
type Device struct {
	Index     int
	Name      string
	AltNames  []string
	MAC       net.HardwareAddr
	Addresses []netip.Prefix // host bits kept
	VRF       bool           // a port of one
	Down      bool           // administratively
	XDP       bool           // a program sees its frames first
	VFs       int
	Features  map[string]bool // of ethtool; nil where they cannot be read
}

// Route is a route that is of interest here: every default route, every one that
// refuses, that has no gateway although it leads far, or whose gateway is this
// host.
type Route struct {
	Family, Type, Table, Metric, Protocol int
	Dst                                   netip.Prefix
	Device                                int // index, 0 where there is none
	Gateway                               netip.Addr
}

// Neighbour is an entry of the kernel's neighbour tables.
type Neighbour struct {
	Interface int
	Address   netip.Addr
	MAC       net.HardwareAddr
	Counted   bool // against gc_thresh
}

// NeighTable is what the kernel tells of the size of a neighbour table, which all
// network namespaces share.
type NeighTable struct {
	Thresh2, Thresh3 int
	Fulls            uint64 // how often it had no room, since the host started
}

// Hook is a program or a filter in the TC hooks of an interface.
type Hook struct {
	Interface int
	Egress    bool
	TCX       bool // else a filter of a clsact qdisc, which runs after those
	Name      string
	Ours      bool
}

// Socket is a UDP socket.
type Socket struct {
	Local, Remote netip.AddrPort // Remote is not valid where it is not connected
	Process       string         // name of one that has it open, empty where not known
}

// Firewalld is what its configuration says.
type Firewalld struct {
	File         string
	IPv6RPFilter string // as written, "yes" where the file does not say
}

// managed returns a managed interface by its index, nil for others.
func (h *Host) managed(index int) *discover.Interface {
	i := slices.IndexFunc(h.Interfaces, func(i discover.Interface) bool { return i.Index == index })
	if i < 0 {
		return nil
	}
	return &h.Interfaces[i]
}

func (h *Host) managedName(name string) bool {
	return slices.ContainsFunc(h.Interfaces, func(i discover.Interface) bool { return i.Name == name })
}

func (h *Host) device(index int) *Device {
	i := slices.IndexFunc(h.Devices, func(d Device) bool { return d.Index == index })
	if i < 0 {
		return nil
	}
	return &h.Devices[i]
}

func (h *Host) deviceName(index int) string {
	if d := h.device(index); d != nil {
		return d.Name
	}
	return ""
}

// setting returns a sysctl of an interface and that of "all"; false where the
// kernel has none.
func (h *Host) setting(family, name, leaf string) (device, all int, known bool) {
	device, known = h.Settings[hostsettings.Key(family, name, leaf)]
	all = h.Settings[hostsettings.Key(family, "all", leaf)]
	return device, all, known
}

// isOwn tells whether an address is this host's.
func (h *Host) isOwn(a netip.Addr) bool {
	return slices.ContainsFunc(h.Own, func(o discover.OwnAddress) bool { return o.Address == a })
}

// onLink returns the network of a managed interface that holds an address.
func (h *Host) onLink(index int, a netip.Addr) (netip.Prefix, bool) {
	for _, o := range h.OnLink {
		if o.Interface == index && o.Prefix.Contains(a) {
			return o.Prefix, true
		}
	}
	return netip.Prefix{}, false
}

// hasFamily tells whether the managed interfaces have addresses of a family.
func (h *Host) hasFamily(v4 bool) bool {
	return slices.ContainsFunc(h.Interfaces, func(i discover.Interface) bool { return hasFamily(i, v4) })
}

// isPrivate tells whether the managed interfaces have no IPv6 addresses but unique
// local ones (RFC 4193), which need not lead anywhere.
func (h *Host) isPrivate(family int) bool {
	return family == unix.AF_INET6 && !slices.ContainsFunc(h.Interfaces, func(i discover.Interface) bool {
		return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() && !p.Addr().IsPrivate() })
	})
}

func hasFamily(i discover.Interface, v4 bool) bool {
	return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() == v4 })
}

// has tells whether an interface has an address.
func has(i discover.Interface, a netip.Addr) bool {
	return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
}
