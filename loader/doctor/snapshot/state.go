// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/flows"
	"replypath/loader/kernel"
	"replypath/loader/pins"
	"replypath/loader/status"
)

// State is what replypath itself is and does here.
type State struct {
	Config     *config.Config
	ConfigPath string
	PinDir     string
	Attached   bool           // a datapath is pinned
	Pinned     bool           // the pin directory is there, whether it may be read or not
	HasUnit    bool           // systemd runs here, and has replypath's unit
	Elsewhere  *Elsewhere     // the datapath of another pin directory, nil for none; beside it none is started
	InForce    *InForce       // what it works by, nil for nothing
	Start      Start          // what a start takes
	Daemon     *Daemon        // who holds the pin directory, nil for nobody
	Status     *status.Status // what the datapath does, nil for none
	// Enforcing are the managed interfaces on which replies are corrected, by index;
	// none where nothing is attached, or where it cannot be told.
	Enforcing map[int]bool
}

// Recent is what became of requests by an interface lately; of one that nothing is known of, nothing did.
func (s *State) Recent(name string) (recent flows.Recent) {
	if s.Status != nil {
		for n := range s.Status.Interfaces {
			if i := &s.Status.Interfaces[n]; i.Name == name {
				recent.Add(&i.Recent)
			}
		}
	}
	return recent
}

// IsUsual tells whether the pin directory is the usual one, which the unit's daemon uses.
func (s *State) IsUsual() bool { return s.PinDir == "" || s.PinDir == pins.DefaultDir }

// IsByUnit tells whether a daemon for the pin directory is the unit's.
func (s *State) IsByUnit() bool { return s.IsUsual() && s.HasUnit }

// Elsewhere is a datapath of this network namespace that is pinned in another directory.
type Elsewhere struct {
	Dir string // empty where it cannot be seen from here
	PID int    // of its daemon, 0 where that is not known
}

// String says where to ask.
func (e *Elsewhere) String() string {
	who := "of replypath in this network namespace"
	if e.PID != 0 {
		who += fmt.Sprintf(", pid %d", e.PID)
	}
	if e.Dir == "" {
		return "the pins " + who + " cannot be seen from here"
	}
	return "ask with --pin-dir " + e.Dir + ": the one " + who
}

// Daemon is a running replypath.
type Daemon struct {
	PID  int  // 0 where it cannot be told, or is of another PID namespace
	Unit bool // it was started by the unit
}

// InForce is what a datapath works by.
type InForce struct {
	Path     string // of the file, empty where it was started without one
	LoadedAt time.Time
	Config   *config.Config // nil where an earlier version has not written it down
	Running  bool           // a daemon follows the changes of this host
	Refused  string         // why a later configuration was refused, empty where none was
	// File says what has become of the file since, empty where it says the same; Wrong, that no
	// start and no reload takes it.
	File  string
	Wrong bool
}

// LoadedFrom is the path of the file, or of the one that a reload would read if it were there.
func (f *InForce) LoadedFrom() string { return cmp.Or(f.Path, config.DefaultPath) }

// Start is what a start takes; what is zero is there.
type Start struct {
	Place    error          // why nothing can be pinned
	BTF      error          // that the kernel has none
	Programs error          // why it loads no programs
	Rights   []kernel.Right // that this process lacks
	// Features are those of the kernel, as far as they can be told.
	Features []pins.FeatureRecord
}

// Traffic is what replypath has seen of packets.
type Traffic struct {
	Flows     []flows.Flow
	FlowError string // why the flow table cannot be read, empty where there is none or it can
	WrongWays []WrongWay
	OwnWays   []OwnWay
}

// OwnWay is by which device the kernel sends what an own address sends to peers beyond its network; "" if nowhere.
type OwnWay struct {
	Address netip.Prefix
	On, By  string
	Device  int  // By
	Refused bool // by a route or a rule
}

// WrongWay is what leaves by another interface than it should, now.
type WrongWay struct {
	From, To string // the kernel's choice, empty for replypath's own device; the flow's interface
	Reason   string // of the metrics, or ReasonLost
	Packets  uint64 // since it was pinned
	Last     time.Time
	Opened   bool // not replies: what the host originates from addresses of To
	Over     bool // Last was a while ago, or no flow is left of which it is true
	Flows    int  // alive, with the kernel's route leading by From
	Answered bool // some of these were answered before
	Arrived  int  // of Flows, the connections: their handshakes were completed
}

// Reasons that more than a text depends on.
const (
	ReasonObserve  = "observe"
	ReasonLinkDown = "link_down"
	ReasonLost     = counters.ReasonLost
	// ReasonNoRoute, ReasonNotManaged are of explain: a route or a rule refuses the replies; they leave by From, where no program of
	// ours is.
	ReasonNoRoute, ReasonNotManaged = "no_route", "not_managed"
	// ReasonTunnel: what the packets asked for is an address of From; To is a tunnel that the configuration did not name.
	ReasonTunnel = "unnamed_tunnel"
)

// Unnamed visits the flows of a managed interface that came through no gateway that a route names.
func (t *Traffic) Unnamed(name string, visit func(f *flows.Flow, peer netip.Addr)) {
	for n := range t.Flows {
		f := &t.Flows[n]
		peer, err := netip.ParseAddr(f.Peer)
		if err == nil && f.Interface != nil && *f.Interface == name && f.Gateway == nil {
			visit(f, peer)
		}
	}
}

// Translation is a destination that tracked connections are translated from.
type Translation struct {
	Address, Target netip.Addr // of the first connection
	Count           int
}

// Use is a connection that this host opened, or a tuple by which it spoke first.
type Use struct {
	Protocol      uint8
	Local, Remote netip.AddrPort
	Over          bool // it has ended, and is still known
	Related       bool // to what its peer began by the interface of the address
}
