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
	"replypath/loader/finding"
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
	// silentTime is after how long without a reply a flow is silent whose peer goes on: to a TCP segment the kernel answers, and one
	// window update is none of a fault.
	silentTime = 15 * time.Second
	// mostEnds bounds the own ends that evidence tells apart, by interface, mostWaiting the requests to one that are remembered.
	mostEnds, mostWaiting = 8192, 32
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
	// Silent are those that no reply was seen of, and nobody is known to have to answer: scans, what log hosts take, pings.
	Silent int `json:"-"`
	// Wrong is of how many of those Astray and Lost a reply left so Lately.
	Wrong map[bpf.DatapathOutcome]int `json:"-"`
}

// All is how many requests there were.
func (r *Recent) All() int { return r.Right + r.Astray + r.Lost + r.Unanswered }

// Add counts those of another interface as well.
func (r *Recent) Add(other *Recent) {
	r.Right, r.Astray, r.Lost, r.Unanswered = r.Right+other.Right, r.Astray+other.Astray, r.Lost+other.Lost, r.Unanswered+other.Unanswered
	r.Silent += other.Silent
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

// Shows tells whether an outcome of Wrong is more than a flow among many.
func (r *Recent) Shows(outcome bpf.DatapathOutcome) bool {
	const few, inNumber = 1, 10
	n := r.Wrong[outcome]
	return n > few || n*inNumber >= r.All() && n > 0
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

// String names it as people do: TCP goes without saying.
func (e End) String() string {
	if e.Protocol == unix.IPPROTO_TCP {
		return e.Self.String()
	}
	return fmt.Sprintf("%s (%s)", e.Self, config.ProtocolName(e.Protocol))
}

// Unanswered are the requests by an interface to an end that got no answer within Window, since the last one that got any.
type Unanswered struct {
	End
	Peer        netip.AddrPort // of the last of them
	Count       int
	Answered    int       // requests by this interface that came since the first of them
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
	since     func(tick uint32) time.Duration
	at        time.Time
	ownOf     func(netip.Addr) bpf.DatapathOwnFlags // what an address is to this host, 0 for nothing
	listening map[uint16][]netip.Addr               // where TCP sockets do, by port
	came      map[uint16]*came
	ends      map[askedBy]*asked
	serves    map[End]bool                        // somebody was answered there within a day
	own       map[netip.Addr]bpf.DatapathOwnFlags // what ownOf has said
}

// came are the requests by an interface, how long ago the first began and the last was heard, and how many of those that were
// answered began in which second of Window.
type came struct {
	Recent
	had         Had
	isAny       bool
	first, last time.Duration
	began       [Window / time.Second]uint32
}

// askedBy is an own end by the id of the interface that it is asked by.
type askedBy struct {
	by uint16
	End
}

// asked are the requests to one that got no answer, and since when one got any: how long ago the last connection that was answered
// began, or the last datagram left, as a service may have nothing to say to a stranger's.
type asked struct {
	count    int
	waiting  []waiting // the youngest of them
	answered time.Duration
}

// waiting is a request without an answer: how long ago it began, and was heard last.
type waiting struct {
	began, heard time.Duration
	insists      bool // its peer asked again
	peer         netip.AddrPort
}

// Gather begins to add up evidence, by a clock and what the maps have of addresses. Where the kernel does not tell who listens, only
// ends that answer others count.
func Gather(since func(tick uint32) time.Duration, maps *bpf.Maps) (*Gathering, error) {
	listening := make(map[uint16][]netip.Addr)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := sockets.Each(unix.IPPROTO_TCP, family, sockets.Listening, func(s *sockets.Socket) {
			listening[s.Local.Port()] = append(listening[s.Local.Port()], s.Local.Addr())
		})
		isRefused := slices.ContainsFunc([]error{unix.ENOENT, unix.EPROTONOSUPPORT, unix.EPERM, unix.EACCES}, func(e error) bool { return errors.Is(err, e) })
		if err != nil && !isRefused {
			return nil, fmt.Errorf("ask who listens: %w", err)
		}
	}
	ownOf := func(a netip.Addr) (flags bpf.DatapathOwnFlags) {
		served := datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_SERVED, 0, netip.PrefixFrom(a, a.BitLen()))
		if maps.OwnAddresses.Lookup(a.As16(), &flags) != nil && maps.Prefixes.Lookup(served, &flags) != nil {
			return 0 // what cannot be read is nobody's
		}
		return flags
	}
	return newGathering(since, listening, ownOf), nil
}

func newGathering(since func(tick uint32) time.Duration, listening map[uint16][]netip.Addr, ownOf func(netip.Addr) bpf.DatapathOwnFlags) *Gathering {
	return &Gathering{
		since: since, at: time.Now(), ownOf: ownOf, listening: listening, came: make(map[uint16]*came), ends: make(map[askedBy]*asked),
		serves: make(map[End]bool), own: make(map[netip.Addr]bpf.DatapathOwnFlags),
	}
}

// Add counts a flow of the table.
func (g *Gathering) Add(f *bpf.DatapathFlow, in bpf.DatapathTable) {
	const ticks = uint32(bpf.DatapathTickLEFT_TICKS)
	heard, began := g.since(f.Seen), g.since(f.Created)
	if isStray(f) || heard > hadWithin {
		return
	}
	request := askedBy{f.Interface, End{netip.AddrPortFrom(datapath.Address(f.Tuple.Self), datapath.Port(f.Tuple.SelfPort)), f.Tuple.Protocol}}
	answered := f.Left != 0 && (in == bpf.DatapathTableTABLE_ESTABLISHED || isAnswered(f)) // by more than a refusal
	by := g.cameBy(f.Interface)
	if answered {
		g.noteHad(by, &request, heard)
	}
	left := g.since(f.Left &^ (ticks - 1))
	switch {
	case heard > Window:
	case f.Left == 0 && g.waits(f, in):
		g.unanswered(&request, f, waiting{began: began, heard: heard, insists: began-heard >= time.Second/2})
	case f.Left == 0 || left > Window:
	case answered && left-heard > silentTime && !f.IsClosing() && !isEcho(f):
		g.unanswered(&request, f, waiting{began: left, heard: heard}) // since its last reply
	default:
		by.replied(bpf.DatapathOutcome(f.Left%ticks), began, heard, left)
		if answered && f.Tuple.Protocol == unix.IPPROTO_TCP {
			g.answer(&request, began)
		} else if answered {
			g.answer(&request, left)
		}
	}
}

// replied counts a request whose last reply left so long ago.
func (r *came) replied(outcome bpf.DatapathOutcome, began, heard, left time.Duration) {
	r.counts(began, heard)
	if began < Window {
		r.began[began/time.Second]++
	}
	switch outcome {
	case bpf.DatapathOutcomeOUTCOME_ASYMMETRIC, bpf.DatapathOutcomeOUTCOME_CORRECTED, bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE:
		r.Right++
		return
	case bpf.DatapathOutcomeOUTCOME_LOST, bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN:
		r.Lost++
	default:
		r.Astray++
	}
	if left <= Lately {
		r.wrong(outcome, 1)
	}
}

// waits tells of a request that is without an answer for long.
func (g *Gathering) waits(f *bpf.DatapathFlow, in bpf.DatapathTable) bool {
	return in != bpf.DatapathTableTABLE_ESTABLISHED && !isAnswered(f) && g.since(f.Created) > answerTime
}

func isEcho(f *bpf.DatapathFlow) bool {
	return f.Tuple.Protocol == unix.IPPROTO_ICMP || f.Tuple.Protocol == unix.IPPROTO_ICMPV6
}

// counts notes a request that began and was heard so long ago.
func (r *came) counts(began, heard time.Duration) {
	if !r.isAny {
		r.isAny, r.first, r.last = true, began, heard
	}
	r.first, r.last = max(r.first, began), min(r.last, heard)
}

func (g *Gathering) cameBy(by uint16) *came {
	r := g.came[by]
	if r == nil {
		r = &came{}
		g.came[by] = r
	}
	return r
}

// noteHad notes that somebody was answered within a day.
func (g *Gathering) noteHad(by *came, request *askedBy, heard time.Duration) {
	if by.had.Flows++; by.had.Flows == 1 || heard < by.had.last {
		by.had.Self, by.had.last = request.Self.Addr(), heard
	}
	if len(g.serves) < mostEnds {
		g.serves[request.End] = true
	}
}

// unanswered counts a request without an answer. Of many to one end the youngest are remembered.
func (g *Gathering) unanswered(request *askedBy, f *bpf.DatapathFlow, w waiting) {
	var a *asked
	if !isEcho(f) { // people drop pings
		a = g.end(request, g.isTaken(request.End))
	}
	if a == nil {
		g.cameBy(request.by).Silent++
		return
	}
	a.count++
	w.peer = netip.AddrPortFrom(datapath.Address(f.Tuple.Peer), datapath.Port(f.Tuple.PeerPort))
	if len(a.waiting) < mostWaiting {
		a.waiting = append(a.waiting, w)
		return
	}
	oldest := 0
	for n := range a.waiting {
		if a.waiting[n].began > a.waiting[oldest].began {
			oldest = n
		}
	}
	if w.began < a.waiting[oldest].began {
		a.waiting[oldest] = w
	}
}

// answer notes that an end answered so long ago.
func (g *Gathering) answer(request *askedBy, ago time.Duration) {
	if a := g.end(request, false); a != nil {
		a.answered = min(a.answered, ago)
	}
}

// end is what is known of one; nil where there is no more room, which those that somebody takes requests of have twice.
func (g *Gathering) end(request *askedBy, isTaken bool) *asked {
	a, room := g.ends[*request], mostEnds
	if isTaken {
		room *= 2
	}
	if a == nil && len(g.ends) < room {
		a = &asked{answered: Window}
		g.ends[*request] = a
	}
	return a
}

// isTaken tells whether a socket of this host takes connections at an end, or a rule translates what comes for its address.
func (g *Gathering) isTaken(e End) bool {
	self := e.Self.Addr()
	own, known := g.own[self]
	if !known && len(g.own) < mostEnds {
		own = g.ownOf(self)
		g.own[self] = own
	}
	takes := func(l netip.Addr) bool { return l == self || l.IsUnspecified() && (l.Is6() || self.Is4()) }
	return e.Protocol == unix.IPPROTO_TCP && own != 0 &&
		(own&bpf.DatapathOwnFlagsOWN_TRANSLATED != 0 || slices.ContainsFunc(g.listening[e.Self.Port()], takes))
}

// Evidence concludes.
func (g *Gathering) Evidence() *Evidence {
	e := &Evidence{make(map[uint16]Recent), make(map[uint16][]Unanswered), make(map[uint16]Had)}
	for request, a := range g.ends {
		switch {
		case a.count == 0:
			continue
		case !g.serves[request.End] && !g.isTaken(request.End):
			g.cameBy(request.by).Silent += a.count
			continue
		}
		for _, w := range a.waiting {
			g.came[request.by].counts(w.began, w.heard)
		}
		g.came[request.by].Unanswered += a.count
		if u := a.since(request.End, g.at); u.Count > 0 {
			e.Unanswered[request.by] = append(e.Unanswered[request.by], u)
		}
	}
	for by, c := range g.came {
		if c.isAny {
			c.note(new(g.at.Add(-c.first)), new(g.at.Add(-c.last)))
		}
		e.Recent[by], e.Had[by] = c.Recent, c.had
		list := e.Unanswered[by]
		for n := range list {
			for _, answered := range c.began[:min(max(g.at.Sub(list[n].First), 0), Window)/time.Second] {
				list[n].Answered += int(answered)
			}
		}
		slices.SortFunc(list, func(a, b Unanswered) int {
			return cmp.Or(cmp.Compare(b.Count, a.Count), a.Self.Compare(b.Self), cmp.Compare(a.Protocol, b.Protocol))
		})
	}
	return e
}

// since are the requests that got no answer since one got any.
func (a *asked) since(e End, at time.Time) Unanswered {
	u := Unanswered{End: e}
	for _, w := range a.waiting {
		if w.began >= a.answered {
			continue
		}
		u.Count++
		if first := at.Add(-w.began); u.Count == 1 || first.Before(u.First) {
			u.First = first
		}
		if last := at.Add(-w.heard); u.Count == 1 || last.After(u.Last) {
			u.Last, u.Peer = last, w.peer
		}
		u.Insists = u.Insists || w.insists
	}
	if u.Count == len(a.waiting) {
		u.Count = a.count // those that are not remembered are older: some of them may have begun before
	}
	return u
}

// The checks of doctor that say what Findings and Gone do.
const (
	CheckUnanswered = "unanswered"
	CheckGone       = "gone-interface"
)

// Gone are the interfaces that had flows and are gone, or have no address left, by their records.
func (e *Evidence) Gone(missed []pins.InterfaceRecord) (found []finding.Finding) {
	for _, r := range missed {
		if had := e.Had[r.ID]; had.Flows > 0 {
			what := "is gone"
			if r.Index != 0 {
				what = "has no address left"
			}
			found = append(found, had.gone(r.Name, fmt.Sprintf("%s %s since %s", r.Name, what, finding.Moment(*r.Gone, time.Now()))))
		}
	}
	return found
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
		sum.Count, sum.Answered = sum.Count+u.Count, max(sum.Answered, u.Answered)
		if u.First.Before(sum.First) {
			sum.First = u.First
		}
		if u.Last.After(sum.Last) {
			sum.Last = u.Last
		}
	}
	text := fmt.Sprintf("%d of %d requests by %s since %s got no reply from this host: %s",
		sum.Count, sum.Count+sum.Answered, name, finding.Moment(sum.First, now), sum.End)
	switch {
	case severity == finding.Note:
		text += fmt.Sprintf(", the last at %s", finding.Moment(sum.Last, now))
	case opens && sum.Answered == 0:
		severity = finding.Error
	}
	if len(list) > 1 {
		text += fmt.Sprintf(" and %d more", len(list)-1)
	}
	text += fmt.Sprintf(", the last from %s", sum.Peer)
	f := finding.Seen(severity, name, text, finding.Explained("nft list ruleset; ss -tulnp", "what drops requests or replies, and who has to answer"))
	f.Evidence = &finding.Evidence{Count: uint64(sum.Count), Since: &sum.First, Until: sum.Last}
	return f
}
