// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/netip"
	"time"
)

// Source is where the figures come from. Its methods are called from several
// goroutines at once.
type Source interface {
	// Snapshot reads every figure. An error fails the scrape as a whole.
	Snapshot() (*Snapshot, error)
	// Lacking says, a line each, what is not as it was told to be: managed interfaces that lack a program on one of their
	// hooks, those that are configured by name and do not exist, a configuration that was refused. What is wrong with the
	// host and with peers does not count. It is asked for by /healthz, so it should cost little.
	Lacking() ([]string, error)
	// Passed tells when the loop that keeps all this went round last. It waits for nobody.
	Passed() time.Time
}

// Finding is something that is wrong, or worth knowing.
type Finding struct {
	Check    string // what was examined
	Severity string // "error", "warning" or "note"
}

// Requests are what became of those that came by an interface in the last ten minutes.
type Requests struct {
	Interface                       string
	Right, Astray, Lost, Unanswered int
}

// Snapshot is what one scrape shows. Counters start when the pins were made and
// never go backwards while they stand.
//
// Maps that are keyed by a reason need not hold what is 0.
type Snapshot struct {
	// Pairs, Uncorrected, Lost and Originated hold what was seen so far, in one entry for the same labels: an interface that was
	// removed and came back under its name continues its series.
	Pairs       []PairCounters
	Uncorrected []Uncorrected
	Lost        []Uncorrected // redirected, and never seen leaving
	// Originated holds what the host originated by another interface than that of its source.
	Originated []Originated
	// Uncounted counts the packets that found no room for a counter of their
	// interface pair.
	Uncounted uint64

	Unparsed map[string]uint64 // by reason: packets that passed because they could not be read
	Ignored  map[string]uint64 // by reason: inbound packets that could have started a flow and did not

	Tables       []Table
	Outbound     Notes             // of what the host began
	Moves        map[string]uint64 // by protocol: flows that moved to another interface or MAC
	MovesRefused map[string]uint64 // by reason
	WaysLearnt   map[string]uint64 // by way: how often a handshake taught it

	SourceRepairs PerFamily // UDP answers that were given the address that was asked

	Interfaces    []Interface
	Gateways      []Gateway
	RPFilterDrops *uint64 // IPReversePathFilter of this network namespace; nil: the kernel does not tell

	FallbackActive  Families          // the fallback default route is held
	FallbackDropped PerFamily         // packets of the host's own that ended at the fallback device
	HostRepairs     map[string]uint64 // by object: what was put back after somebody else had taken it away or changed it

	Mode          string    // ModeEnforce or ModeObserve
	ReloadFailed  bool      // the latest attempt to read the configuration failed
	ReloadSuccess time.Time // when the configuration in force was read; zero: not known
	Features      []Feature

	Requests []Requests // by interface
	Findings []Finding  // what the daemon itself knows of
}

// Modes of [Snapshot].
const (
	ModeEnforce = "enforce"
	ModeObserve = "observe"
)

// Pair is an interface pair with what else bounds its counters. An empty From is
// shown as "none": the kernel had chosen replypath0, which is no interface to
// leave by. Protocols other than tcp, udp, icmp, icmpv6 and sctp are "other".
type Pair struct {
	From, To string // the kernel's choice, the flow's interface
	Family   string // "ipv4" or "ipv6"
	Protocol string
}

// PairCounters counts what the kernel wanted to send by another interface, or to
// another next hop, than its flow came in by. Packets and bytes are as on the
// wire: a GSO packet counts as its segments.
type PairCounters struct {
	Pair
	AsymmetricPackets uint64
	AsymmetricFlows   uint64
	CorrectedPackets  uint64
	CorrectedBytes    uint64
	CorrectedFlows    uint64
}

// Uncorrected counts packets that went on as the kernel sent them, or were lost, by the reason why.
type Uncorrected struct {
	Pair
	Reason  string
	Packets uint64
}

// Originated counts what the host sent or forwarded with the address of the interface To, which the kernel would
// have sent by From, and what was no reply.
type Originated struct {
	Pair
	Moved, Routed Sent
	Reasons       map[string]uint64 // why packets went as routed
}

// Sent counts packets, and pairs of addresses that they are between.
type Sent struct{ Packets, Flows uint64 }

// Table is a flow table.
type Table struct {
	Name           string
	Flows          uint64 // that are not idle
	Lasting        uint64 // of these, handshakes, open connections and conversations
	Capacity       uint64 // for how many of those there is room
	Admissions     uint64
	Readmissions   uint64
	InsertFailures uint64
}

// Notes is the table of what the host began, whose answers are no flows of their own.
// An entry is a note, which always finds a place. The kernel does not tell what it evicts.
type Notes struct {
	Capacity   uint64
	Admissions uint64
}

// PerFamily is a counter for each address family.
type PerFamily struct{ IPv4, IPv6 uint64 }

// Families is a fact about each address family.
type Families struct{ IPv4, IPv6 bool }

// Interface is a managed interface, or one that is configured by this name and does not exist.
type Interface struct {
	Name     string
	Up       bool // administratively up and with carrier
	Hooks    []Hook
	RPFilter *int // effective value, max(all, device); nil: the kernel does not tell
}

// Hook is a place where a program belongs.
type Hook struct {
	Name      string // "ingress" or "egress"
	Mechanism string // "tcx" or "clsact"; empty, where nothing is attached, is shown as "none"
	Attached  bool
}

// Gateway is a known gateway of a managed interface.
type Gateway struct {
	Interface string
	Address   netip.Addr
	Reachable bool // by its last genuine answer, also while its entry is held
}

// Feature is something that depends on the kernel.
type Feature struct {
	Name      string
	Available bool
}
