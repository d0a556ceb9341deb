// SPDX-License-Identifier: Apache-2.0

// Package status tells what a datapath is and does, from its pins: no daemon is needed.
package status

import (
	"time"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/counters"
	"replypath/loader/discover"
	"replypath/loader/finding"
	"replypath/loader/flows"
	"replypath/loader/pins"
)

// Status is what `replypath status` shows. The JSON names are fixed, those of the journal's
// records too.
type Status struct {
	Summary     string         `json:"summary"` // the answer in a line; see Conclude
	Mode        string         `json:"mode"`    // "enforce" or "observe"
	Daemon      Daemon         `json:"daemon"`
	TrialUntil  *time.Time     `json:"trial_until"` // nil: it is there for good, or the trial is over
	Config      Config         `json:"config"`
	Interfaces  []Interface    `json:"interfaces"`
	Unmanaged   []Unmanaged    `json:"unmanaged"`
	Addresses   []Served       `json:"addresses"`
	Flows       Flows          `json:"flows"`
	Senders     []flows.Sender `json:"senders"` // of whom handshakes taught something; at most mostSenders
	SenderCount int            `json:"sender_count"`
	Features    []Feature      `json:"features"`
	HostChanges []HostChange   `json:"host_changes"`
	WouldChange []WouldChange  `json:"would_change"`
	Errors      []string       `json:"errors"` // what the daemon could not do yet and tries again
	Health      finding.Health `json:"health"` // what doctor makes of it
	Counted     Counted        `json:"counted"`
	PinDir      string         `json:"pin_dir"`

	TrialEnded *time.Time        `json:"-"` // and nobody has confirmed it, nor taken it back yet
	Unanswered []finding.Finding `json:"-"` // requests that got no answer
	Gone       []finding.Finding `json:"-"` // interfaces that had flows
}

// Daemon tells of the process that owns the pins; PID and Version are
// nil where none runs.
type Daemon struct {
	Running bool    `json:"running"`
	PID     *int    `json:"pid"`
	Version *string `json:"version"`
	// Passed is when its loop went round last.
	Passed time.Time `json:"-"`
}

// Config tells when the configuration in force was read, and why a later
// one was refused.
type Config struct {
	Path     *string    `json:"path"`
	LoadedAt *time.Time `json:"loaded_at"`
	Error    *string    `json:"error"`
}

// Interface is a managed or a caught interface.
type Interface struct {
	Name      string    `json:"name"`
	Index     int       `json:"index"`
	Role      string    `json:"role"`
	Up        bool      `json:"up"`
	Attached  bool      `json:"attached"`
	Mechanism *string   `json:"mechanism"` // "tcx" or "clsact"
	Mode      string    `json:"mode"`      // the one in force
	HostModel string    `json:"host_model"`
	NextHop   string    `json:"next_hop"`
	Gateways  []Gateway `json:"gateways"`
	RPFilter  *int      `json:"rp_filter"` // effective value of IPv4
	Flows     int       `json:"flows"`
	// Recent is what became, within flows.Window, of requests that came by it.
	Recent  flows.Recent `json:"recent"`
	OwnOnly bool         `json:"-"` // it records requests for its own addresses alone
}

// The roles of interfaces.
const (
	RoleRecords = "records" // it is managed
	RoleCatches = "catches" // it is not: replies that leave by it are caught
)

// Catches tells whether the interface is not managed, and only replies that leave by it are caught.
func (i *Interface) Catches() bool { return i.Role == RoleCatches }

// Counted is what became of the replies that the kernel would send by another way, in packets.
type Counted struct {
	Since *time.Time `json:"since"` // nil: not known
	counters.Totals
	Wrong      []counters.Wrong      `json:"-"` // what left wrongly, by interfaces
	Unrecorded []counters.Unrecorded `json:"-"` // requests by protocols that are not recorded
	NotEntered uint64                `json:"-"` // flows that found no place in a table
}

// Served is a network whose addresses this host serves although no interface has them.
type Served struct {
	Network string `json:"network"`
	Source  string `json:"source"` // who says so: "configuration", "firewall" or "route"
}

// Gateway is a known gateway of a managed interface.
type Gateway struct {
	Address string  `json:"address"`
	MAC     *string `json:"mac"`
	State   string  `json:"state"` // the kernel's word for the last answer in lower case, or StateHeld
}

// StateHeld is the state of a silent gateway whose neighbour entry is kept usable.
const StateHeld = "held"

// Unmanaged is an interface that is left alone, and why.
type Unmanaged = pins.UnmanagedRecord

// Flows counts the flows of all tables together.
type Flows struct {
	Count    int `json:"count"`
	Capacity int `json:"capacity"`

	Tables []flows.TableUsage `json:"-"`
}

// Feature is something that depends on the kernel or on this version.
type Feature = pins.FeatureRecord

// HostChange is something that replypath changed outside its own objects.
type HostChange struct {
	Object string `json:"object"` // "sysctl net.ipv4.conf.eth1.rp_filter", "qdisc clsact on eth1"
	Before string `json:"before"`
	After  string `json:"after"`
	Undo   string `json:"undo"` // the command that puts it back by hand
}

// WouldChange is something that enforcing would change outside replypath's own objects, where the mode is observe.
type WouldChange = pins.ChangeRecord

// reader reads a Status.
type reader struct {
	pinDir  string
	journal *pins.Journal
	maps    *bpf.Maps
	netlink *netlink.Handle
	byHand  bpf.DatapathMode
	found   []discover.Interface // with the gateways that the daemon knows, as if just these were configured
}
