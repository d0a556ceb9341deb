// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/doctor/finding"
	"replypath/loader/pins"
	"replypath/loader/sockets"
)

const (
	// Window is how far back evidence goes.
	Window = 10 * time.Minute
	// Lately is how far back something is that happens now. What is older is over.
	Lately = 5 * time.Minute
	// answerTime is how long a request may wait for its answer.
	answerTime = 3 * time.Second
	// mostEnds bounds the own ends that evidence tells apart, by interface.
	mostEnds = 8192
)

// Recent is what became of the requests that came by an interface within Window: a flow is one, and its last reply counts.
// Those of which no reply can be told, as their flows have gone from the table, are left out. The JSON names are fixed.
type Recent struct {
	Right      int        `json:"right"`      // seen leaving as the flow asks, or as its socket or a handshake wants it
	Astray     int        `json:"astray"`     // seen leaving by another way
	Lost       int        `json:"lost"`       // moved, and never seen leaving
	Unanswered int        `json:"unanswered"` // somebody answers there, and nothing was seen leaving for 3 s
	FirstAt    *time.Time `json:"first_at"`   // when the first of these began; nil: there are none
	LastAt     *time.Time `json:"last_at"`    // when the last of them was heard
	// Wrong is of how many of those Astray and Lost a reply left so Lately.
	Wrong map[bpf.DatapathOutcome]int `json:"-"`
}

// All is how many requests there were.
func (r *Recent) All() int { return r.Right + r.Astray + r.Lost + r.Unanswered }

// Add counts those of another interface as well.
func (r *Recent) Add(other *Recent) {
	r.Right, r.Astray, r.Lost, r.Unanswered = r.Right+other.Right, r.Astray+other.Astray, r.Lost+other.Lost, r.Unanswered+other.Unanswered
	r.note(other.FirstAt, other.LastAt)
	for outcome, count := range other.Wrong {
		r.wrong(outcome, count)
	}
}

func (r *Recent) wrong(outcome bpf.DatapathOutcome, count int) {
	if r.Wrong == nil {
		r.Wrong = make(map[bpf.DatapathOutcome]int)
	}
	r.Wrong[outcome] += count
}

func (r *Recent) note(first, last *time.Time) {
	if first != nil && (r.FirstAt == nil || first.Before(*r.FirstAt)) {
		r.FirstAt = first
	}
	if last != nil && (r.LastAt == nil || last.After(*r.LastAt)) {
		r.LastAt = last
	}
}

// End is where a service of this host is asked.
type End struct {
	Self     netip.AddrPort
	Protocol uint8
}

// String names it as people do.
func (e End) String() string { return fmt.Sprintf("%s %s", config.ProtocolName(e.Protocol), e.Self) }

// Unanswered are the requests by an interface to an end that got no answer within Window, which were answered to nobody later.
type Unanswered struct {
	End
	Peer        netip.AddrPort // of the last of them
	Count       int
	Of          int       // requests by this interface that came since the first of them, these included
	First, Last time.Time // when the first of them began, when the last one was heard
	Insists     bool      // one of their peers asked again
}

// Evidence is what the flow tables tell of what became of requests, by the ids of interfaces.
type Evidence struct {
	Recent map[uint16]Recent
	// Unanswered are those that no reply was seen of, those of most requests first.
	Unanswered map[uint16][]Unanswered
	// Had are the flows of the last day that were answered.
	Had map[uint16]Had
}

// Had are flows that an interface had.
type Had struct {
	Flows int
	Self  netip.Addr // of the one that was heard last
	last  time.Duration
}

// hadWithin is how far back those go.
const hadWithin = 24 * time.Hour

// Gathering adds up evidence, flow by flow, in bounded room.
type Gathering struct {
	clock     datapath.Clock
	at        time.Time
	listening []netip.AddrPort
	came      map[uint16]*came
	ends      map[askedBy]*asked
	answered  map[End]bool
	had       map[uint16]Had
}

// came are the requests by an interface, and how many of those that were answered began in which second of Window.
type came struct {
	Recent
	began [Window / time.Second]uint32
}

// askedBy is an own end by the id of the interface that it is asked by.
type askedBy struct {
	by uint16
	End
}

// asked is what became of requests to one: unanswered ones, and until when it answered: when the last connection began, or the
// last datagram left, as a service may have nothing to say to a stranger's.
type asked struct {
	Unanswered
	answered time.Time
}

// Gather begins to add up evidence. Where the kernel does not tell who listens, only ends that answer others count.
func Gather(clock datapath.Clock) (*Gathering, error) {
	var listening []netip.AddrPort
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := sockets.Each(unix.IPPROTO_TCP, family, sockets.Listening, func(s *sockets.Socket) { listening = append(listening, s.Local) })
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil, fmt.Errorf("ask who listens: %w", err)
		}
	}
	return &Gathering{clock, time.Now(), listening, map[uint16]*came{}, map[askedBy]*asked{}, map[End]bool{}, map[uint16]Had{}}, nil
}

// Add counts a flow of the table.
func (g *Gathering) Add(f *bpf.DatapathFlow, in bpf.DatapathTable) {
	heard, began := g.clock.Since(f.Seen), g.clock.Since(f.Created)
	if f.Left != 0 && !isStray(f) && heard <= hadWithin {
		had := g.had[f.Interface]
		if had.Flows++; had.Flows == 1 || heard < had.last {
			had.Self, had.last = datapath.Address(f.Tuple.Self), heard
		}
		g.had[f.Interface] = had
	}
	if heard > Window || isStray(f) {
		return
	}
	request := askedBy{f.Interface, End{netip.AddrPortFrom(datapath.Address(f.Tuple.Self), datapath.Port(f.Tuple.SelfPort)), f.Tuple.Protocol}}
	outcome, isSeen := g.outcome(f)
	if !isSeen {
		if f.Left == 0 && g.waits(f, in) {
			g.unanswered(request, f)
		}
		return
	}
	r := g.of(f.Interface, began, heard)
	switch outcome {
	case bpf.DatapathOutcomeOUTCOME_ASYMMETRIC, bpf.DatapathOutcomeOUTCOME_CORRECTED, bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE:
		r.Right++
	case bpf.DatapathOutcomeOUTCOME_LOST, bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN:
		r.Lost++
	default:
		r.Astray++
	}
	left := g.clock.Since(f.Left)
	if outcome > bpf.DatapathOutcomeOUTCOME_CORRECTED && left <= Lately {
		r.wrong(outcome, 1)
	}
	if began < Window {
		r.began[began/time.Second]++
	}
	if request.Protocol != unix.IPPROTO_TCP {
		began = left
	}
	g.answer(request, began)
}

// outcome is that of the last reply of a flow, if it left within Window.
func (g *Gathering) outcome(f *bpf.DatapathFlow) (outcome bpf.DatapathOutcome, isSeen bool) {
	const ticks = uint32(bpf.DatapathTickLEFT_TICKS)
	return bpf.DatapathOutcome(f.Left % ticks), f.Left != 0 && g.clock.Since(f.Left&^(ticks-1)) <= Window
}

// waits tells of a request that is without an answer for long.
func (g *Gathering) waits(f *bpf.DatapathFlow, in bpf.DatapathTable) bool {
	isEcho := f.Tuple.Protocol == unix.IPPROTO_ICMP || f.Tuple.Protocol == unix.IPPROTO_ICMPV6
	return in != bpf.DatapathTableTABLE_ESTABLISHED && !isEcho && !isAnswered(f) && g.clock.Since(f.Created) > answerTime
}

// of counts a request by an interface, that began and was heard so long ago.
func (g *Gathering) of(by uint16, began, heard time.Duration) *came {
	r := g.came[by]
	if r == nil {
		r = &came{}
		g.came[by] = r
	}
	r.note(new(g.at.Add(-began)), new(g.at.Add(-heard)))
	return r
}

func (g *Gathering) unanswered(request askedBy, f *bpf.DatapathFlow) {
	a := g.end(request, g.listens(request.End))
	if a == nil {
		return
	}
	began, heard := g.clock.Since(f.Created), g.clock.Since(f.Seen)
	first, last := g.at.Add(-began), g.at.Add(-heard)
	if a.Count++; a.Count == 1 || first.Before(a.First) {
		a.First = first
	}
	if a.Count == 1 || last.After(a.Last) {
		a.Last = last
		a.Peer = netip.AddrPortFrom(datapath.Address(f.Tuple.Peer), datapath.Port(f.Tuple.PeerPort))
	}
	a.Insists = a.Insists || began-heard >= time.Second/2
}

func (g *Gathering) answer(request askedBy, ago time.Duration) {
	if a := g.end(request, false); a != nil {
		if at := g.at.Add(-ago); at.After(a.answered) {
			a.answered = at
		}
	}
	if len(g.answered) < mostEnds {
		g.answered[request.End] = true
	}
}

// end is what is known of one; nil where there is no more room, which those that a socket listens at have twice.
func (g *Gathering) end(request askedBy, listens bool) *asked {
	a, room := g.ends[request], mostEnds
	if listens {
		room *= 2
	}
	if a == nil && len(g.ends) < room {
		a = &asked{Unanswered: Unanswered{End: request.End}}
		g.ends[request] = a
	}
	return a
}

// listens tells whether a socket takes connections at an end.
func (g *Gathering) listens(e End) bool {
	return e.Protocol == unix.IPPROTO_TCP && slices.ContainsFunc(g.listening, func(l netip.AddrPort) bool {
		return l.Port() == e.Self.Port() && (l.Addr() == e.Self.Addr() || l.Addr().IsUnspecified() && (l.Addr().Is6() || e.Self.Addr().Is4()))
	})
}

// Evidence concludes.
func (g *Gathering) Evidence() *Evidence {
	e := &Evidence{make(map[uint16]Recent), make(map[uint16][]Unanswered), g.had}
	for request, a := range g.ends {
		if a.Count == 0 || !g.answered[request.End] && !g.listens(request.End) {
			continue
		}
		g.of(request.by, g.at.Sub(a.First), g.at.Sub(a.Last)).Unanswered += a.Count
		if a.answered.Before(a.First) {
			e.Unanswered[request.by] = append(e.Unanswered[request.by], a.Unanswered)
		}
	}
	for by, c := range g.came {
		e.Recent[by] = c.Recent
		list := e.Unanswered[by]
		for n := range list {
			u := &list[n]
			u.Of = c.Unanswered
			for _, answered := range c.began[:min(max(g.at.Sub(u.First), 0), Window)/time.Second] {
				u.Of += int(answered)
			}
		}
		slices.SortFunc(list, func(a, b Unanswered) int {
			return cmp.Or(cmp.Compare(b.Count, a.Count), a.Self.Compare(b.Self), cmp.Compare(a.Protocol, b.Protocol))
		})
	}
	return e
}

// CheckUnanswered is the check of doctor that says what Findings does.
const CheckUnanswered = "unanswered"

// CheckGone is the check of doctor that says what Gone does.
const CheckGone = "gone-interface"

// Gone are the interfaces that went and had flows, by their records.
func (e *Evidence) Gone(missed []pins.InterfaceRecord) (found []finding.Finding) {
	for _, r := range missed {
		if had := e.Had[r.ID]; had.Flows > 0 {
			found = append(found, had.gone(r.Name, fmt.Sprintf("%s is gone since %s", r.Name, finding.Moment(*r.Gone, time.Now()))))
		}
	}
	return found
}

// WithoutAddress tells of an interface that has no address left.
func (h *Had) WithoutAddress(name string) finding.Finding {
	return h.gone(name, name+" has no address left")
}

func (h *Had) gone(name, what string) finding.Finding {
	f := finding.Seen(finding.Warning, name, fmt.Sprintf("%s, it had %s to %s", what, finding.Counted(h.Flows, "flow", "flows"), h.Self),
		finding.Explained("ip -brief address show", "if it is not to come back, reload the configuration: systemctl reload replypath, or SIGHUP"))
	return f.Shown(uint64(h.Flows), nil)
}

// Findings are what requests got no answer, one for each interface, by their names: an error where none was answered since, if it
// was for a connection; a note where it is over, or may be a scan that asks once.
func (e *Evidence) Findings(names map[uint16]string) (found []finding.Finding) {
	for _, by := range slices.Sorted(maps.Keys(e.Unanswered)) {
		if name, isThere := names[by]; isThere {
			found = append(found, unansweredBy(name, e.Unanswered[by]))
		}
	}
	return found
}

func unansweredBy(name string, list []Unanswered) finding.Finding {
	now := time.Now()
	isFault := func(u Unanswered) bool { return (u.Count > 1 || u.Insists) && now.Sub(u.Last) <= Lately }
	severity, sum := finding.Note, list[0]
	if at := slices.IndexFunc(list, isFault); at >= 0 {
		severity, sum = finding.Warning, list[at]
		list = slices.DeleteFunc(slices.Clone(list), func(u Unanswered) bool { return !isFault(u) })
	}
	opens := false
	sum.Count = 0
	for _, u := range list {
		opens = opens || u.Protocol == unix.IPPROTO_TCP
		sum.Count += u.Count
		if !u.First.After(sum.First) {
			sum.First, sum.Of = u.First, u.Of
		}
		if u.Last.After(sum.Last) {
			sum.Last = u.Last
		}
	}
	text := fmt.Sprintf("%d of %d requests by %s since %s got no reply from this host: %s", sum.Count, sum.Of, name, finding.Moment(sum.First, now), sum.Self)
	switch {
	case severity == finding.Note:
		text += fmt.Sprintf(", the last at %s", finding.Moment(sum.Last, now))
	case opens && sum.Count >= sum.Of:
		severity = finding.Error
	}
	if len(list) > 1 {
		text += fmt.Sprintf(" and %d more", len(list)-1)
	}
	text += fmt.Sprintf(", asked by %s", sum.Peer)
	f := finding.Seen(severity, name, text, finding.Explained("nft list ruleset; ss -tulnp", "what drops requests or replies, and who has to answer"))
	f.Evidence = &finding.Evidence{Count: uint64(sum.Count), Since: &sum.First, Until: sum.Last}
	return f
}
