package loader

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/hostsettings"
	"replypath/loader/identity"
	"replypath/loader/nexthop"
)

// Counters are the figures of a datapath. What is counted began when the pins
// were made and never goes backwards while they stand.
//
// Reasons are named as in the metrics; all that there are have an entry.
type Counters struct {
	Pairs        []PairCounters
	Uncorrected  []UncorrectedCounter // for every pair, every reason
	Uncounted    uint64               // packets that found no room for a counter of their pair
	Unparsed     map[string]uint64    // packets, by reason
	Ignored      map[string]uint64    // packets, by reason
	Tables       []TableCounters
	Outbound     NoteCounters
	Moves        map[string]uint64 // flows, by protocol
	MovesRefused map[string]uint64 // packets, by reason

	// SourceRepairs4 and 6 count the UDP answers that were given the address that
	// had been asked.
	SourceRepairs4, SourceRepairs6 uint64

	// FallbackActive4 and 6 tell that a family has no usable default route but the
	// fallback route; FallbackDropped4 and 6 count what ended there.
	FallbackActive4, FallbackActive6   bool
	FallbackDropped4, FallbackDropped6 uint64

	Interfaces    []InterfaceState // those that are managed now, by index, and then those that are missing
	Gateways      []GatewayState   // by interface and address
	RPFilterDrops *uint64          // nil where the kernel does not tell
	Repairs       map[string]uint64

	Mode        string
	ConfigError bool // a later configuration was refused
	LoadedAt    time.Time
	Features    []Feature
}

// Pair tells what counters are about: the interface that the kernel chose, the
// flow's, the family ("ipv4", "ipv6") and the protocol as the metrics name it.
type Pair struct {
	From, To, Family, Protocol string
}

// PairCounters counts replies that the kernel would have sent another way.
// Packets and bytes are as on the wire.
type PairCounters struct {
	Pair
	AsymmetricPackets, AsymmetricFlows               uint64
	CorrectedPackets, CorrectedBytes, CorrectedFlows uint64
}

// UncorrectedCounter counts packets that went on as the kernel sent them.
type UncorrectedCounter struct {
	Pair
	Reason  string
	Packets uint64
}

// TableCounters are a flow table's.
type TableCounters struct {
	Name           string
	Flows          uint64 // that are not idle
	Capacity       uint64
	Admissions     uint64
	Readmissions   uint64 // of the admissions, those in mid-life
	InsertFailures uint64
	Evictions      uint64 // entries that were overwritten by new ones
}

// NoteCounters are those of the notes of what the host began, which always find a place.
type NoteCounters struct {
	Capacity   uint64
	Admissions uint64
	Evictions  uint64 // notes that still said something and were overwritten by new ones
}

// InterfaceState is a managed interface, or by its configured name one that does not exist.
type InterfaceState struct {
	Name     string
	Up       bool
	Hooks    []Hook
	RPFilter *int // effective value; nil where the kernel does not tell
}

// GatewayState is a known gateway. Reachable is the last answer of the neighbour
// protocol: it has a MAC that the kernel would use.
type GatewayState struct {
	Interface string
	Address   netip.Addr
	Reachable bool
}

// Counters reads every figure.
func (l *Loader) Counters() (*Counters, error) {
	l.mu.Lock()
	c, err := l.describe()
	names, forgotten := identity.Names(l.state.Interfaces), l.state.Forgotten
	d := l.datapath
	l.reading.RLock() // before mu is given up: Reload and Close take both
	l.mu.Unlock()
	defer l.reading.RUnlock()
	if err != nil {
		return nil, err
	}
	return c, c.read(d, names, forgotten)
}

// errClosed says that a Loader is of no more use.
var errClosed = errors.New("the datapath is closed")

// describe fills in what is known without the maps of counters.
func (l *Loader) describe() (*Counters, error) {
	if l.dir == nil {
		return nil, errClosed
	}
	byHand, err := readMode(l.datapath.ModeByHand)
	if err != nil {
		return nil, err
	}
	c := &Counters{
		Mode:          modeInForce(byHand, l.state.Mode),
		ConfigError:   l.state.ConfigErr != "",
		LoadedAt:      l.state.LoadedAt,
		Gateways:      l.gatewayStates(),
		RPFilterDrops: rpFilterDrops(),
		Repairs:       maps.Clone(l.state.Repairs),

		FallbackActive4: l.isFallbackActive(unix.AF_INET),
		FallbackActive6: l.isFallbackActive(unix.AF_INET6),
	}
	for _, f := range l.state.Features {
		c.Features = append(c.Features, Feature(f))
	}
	c.Interfaces, err = l.interfaceStates()
	return c, err
}

func (l *Loader) interfaceStates() ([]InterfaceState, error) {
	var states []InterfaceState
	for _, s := range l.inOrder() {
		hooks, err := readHooks(l.attacher, s.target())
		if err != nil {
			return nil, err
		}
		state := InterfaceState{Name: s.Name, Up: s.Up, Hooks: hooks}
		if _, _, effective, err := hostsettings.RPFilter(s.Name); err == nil {
			state.RPFilter = &effective
		}
		states = append(states, state)
	}
	for _, name := range l.missingNow() {
		states = append(states, InterfaceState{Name: name, Hooks: missingHooks()})
	}
	return states, nil
}

// missingNow returns the missing names but for those that an interface has got since they were looked for.
func (l *Loader) missingNow() []string {
	return slices.DeleteFunc(slices.Clone(l.missing), func(name string) bool {
		return slices.ContainsFunc(l.inOrder(), func(s *served) bool { return s.Name == name })
	})
}

// answers tells whether the last word of a gateway's entry is that it is there, and is not ours.
func (g *gateway) answers() bool {
	return nexthop.Usable(g.State) && !g.held && !g.isUnanswered(&g.Gateway)
}

func (l *Loader) gatewayStates() []GatewayState {
	var states []GatewayState
	for _, key := range slices.SortedFunc(maps.Keys(l.gateways), compareGateways) {
		states = append(states, GatewayState{
			Interface: l.nameOf(key.device), Address: key.address,
			Reachable: l.gateways[key].answers(),
		})
	}
	return states
}

// Unattached names the managed interfaces that lack one of their programs, and says which of them do
// not exist.
func (l *Loader) Unattached() ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir == nil {
		return nil, errClosed
	}
	var names []string
	for _, s := range l.inOrder() {
		complete, err := l.isAttached(s.target())
		if err != nil {
			return nil, err
		}
		if !complete {
			names = append(names, s.Name)
		}
	}
	for _, name := range l.missingNow() {
		names = append(names, name+" (no such interface)")
	}
	return names, nil
}
