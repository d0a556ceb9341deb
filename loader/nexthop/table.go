// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/problems"
)

// Table is what of the host's routes matters: a few values, of perhaps a million routes. It follows the changes. What a
// route tells that has come is added. Whether another route tells the same as one that has gone is not known without
// reading all, as no route is kept. So all are read after a change of a network that something is kept of.
//
// The kernel does not tell of each route that goes: not of IPv4's that go with their interface, their source address or their
// nexthop object, nor of one that another has replaced. So after a message that names an interface of the table all are read,
// and any message about a network is taken for a change of all routes to it.
type Table struct {
	known *knowledge // nil until it is read
	must  bool       // it is read before anybody looks
	may   bool       // something may not be true any more, or be missing
	begun *reading   // nil: none
	read  time.Time  // when it was last
	took  time.Duration
}

// knowledge is what the routes tell.
type knowledge struct {
	scan     *discover.Routes
	hops     *dump.Values[hop]
	reaches  *reaches
	wasPlain bool   // the last route led by one gateway, and was no default route
	reached  *found // by the last route
}

// reading is one that goes on beside other work.
type reading struct {
	done  chan struct{}
	known *knowledge
	took  time.Duration
	err   error
}

// Reading bounds the share of time that goes into reading a table of which nothing matters at once: so many times as long as
// it took are a rest.
const (
	restFactor  = 200
	longestRest = 2 * time.Minute
)

// Begin has the routes of the network namespace of the calling thread read beside other work, for the next Read. It has to be
// called after Watch.
func (t *Table) Begin() error {
	var readers []*familyReader
	for _, family := range dump.Families {
		routes, err := dump.OpenRoutes()
		if err != nil {
			closeAll(readers)
			return err
		}
		readers = append(readers, &familyReader{routes: routes, family: family})
	}
	r := &reading{done: make(chan struct{})}
	t.begun = r
	go func() {
		defer close(r.done)
		defer closeAll(readers)
		r.known, r.took, r.err = readAll(readers)
	}()
	return nil
}

// familyReader reads the routes of one family, each by a socket of its own, so that two processors share the work.
type familyReader struct {
	routes *dump.RouteReader
	family int
	known  *knowledge
	took   time.Duration
}

func closeAll(readers []*familyReader) {
	for _, r := range readers {
		r.routes.Close()
	}
}

// read measures what the thread computes for it, in the kernel as well: on a busy machine it waits for others as long.
func (r *familyReader) read() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begun := ThreadTime()
	r.known = newKnowledge()
	err := r.routes.ReadFamily(r.family, unix.RTPROT_UNSPEC, r.known)
	r.took = ThreadTime() - begun
	return err
}

// ThreadTime is what the calling thread has taken of a processor so far: work, and not how
// long it waited for its turn or for a lock of the kernel.
func ThreadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0 // no Linux lacks it
	}
	return time.Duration(t.Nano())
}

// readAll reads all families. It took as long as they did one after the other.
func readAll(readers []*familyReader) (*knowledge, time.Duration, error) {
	var all errgroup.Group
	for _, r := range readers {
		all.Go(func() error { return problems.Caught(r.read) })
	}
	err := all.Wait()
	k, took := newKnowledge(), time.Duration(0)
	for _, r := range readers {
		k.take(r.family, r.known)
		took += r.took
	}
	k.scan.News() // all of it is
	k.hops.News()
	return k, took, err
}

func newKnowledge() *knowledge {
	return &knowledge{
		scan: discover.NewRoutes(), hops: dump.NewValues(collectHops), reaches: newReaches(),
	}
}

// take adds what another knows of a family.
func (k *knowledge) take(family int, from *knowledge) {
	k.scan.Take(family, from.scan)
	k.hops.Take(family, from.hops)
	k.reaches.take(from.reaches)
}

// Begin is dump.Collector's.
func (k *knowledge) Begin(family int) {
	k.wasPlain, k.reached = false, nil
	for _, c := range []dump.Collector{k.scan, k.hops, k.reaches} {
		c.Begin(family)
	}
}

// Collect is dump.Collector's. Of a million routes most tell no more than the one before, but their network.
func (k *knowledge) Collect(r *dump.Route) {
	isAsBefore := r.Another && k.wasPlain && r.Dst.Bits() > 0
	if !isAsBefore {
		k.collectWay(r)
		k.wasPlain = len(r.Hops) == 1 && r.Hops[0].Gateway.IsValid() && r.Dst.Bits() > 0 && r.Type == unix.RTN_UNICAST
	}
	if isAsBefore && k.reached != nil {
		k.reaches.add(k.reached, r.Dst.Masked())
	} else {
		k.reached, _ = k.reaches.collect(r)
	}
}

func (k *knowledge) collectWay(r *dump.Route) {
	k.scan.Collect(r)
	k.hops.Collect(r)
}

// End waits for what Begin has begun, and forgets it.
func (t *Table) End() {
	if t.begun != nil {
		<-t.begun.done
		t.begun = nil
	}
}

// Read reads all routes, and tells whether what matters has changed. The namespace is that of the calling thread.
func (t *Table) Read() (changed bool, err error) {
	if t.begun == nil {
		if err := t.Begin(); err != nil {
			return false, err
		}
	}
	r := t.begun
	t.End()
	if t.read, t.took = time.Now(), r.took; r.err != nil {
		t.must = true
		return false, r.err
	}
	changed = t.known == nil || !t.known.equal(r.known)
	t.known, t.must, t.may = r.known, false, false
	return changed, nil
}

// ReadIfDue is Read where something is known to have changed that was not told. It comes before Find.
func (t *Table) ReadIfDue() error {
	if t.known != nil && !t.must {
		return nil
	}
	_, err := t.Read()
	return err
}

// Verify has the next ReadIfDue read, unless that is done too often. What nobody has told is found by that.
func (t *Table) Verify(now time.Time) {
	t.must = t.must || now.Sub(t.read) >= t.Rest()
}

// Routes are for a scan.
func (t *Table) Routes() *discover.Routes { return t.known.scan }

// Rest is for how long they are not read again unless that matters at once.
func (t *Table) Rest() time.Duration { return min(restFactor*t.took, longestRest) }

// MayBeWrong tells whether something may not be true any more, or be missing.
func (t *Table) MayBeWrong() bool { return t.may }

// MustRead has the next ReadIfDue read.
func (t *Table) MustRead() { t.must = true }

// IsDue tells whether the next ReadIfDue is going to read.
func (t *Table) IsDue() bool { return t.must || t.known == nil }

// Note notes what an event tells of routes, and returns whether the host has to be looked at again now. What has perhaps
// changed MayBeWrong tells. It asks which interfaces are managed, by index.
func (t *Table) Note(e *Event, isManaged func(int) bool) (look bool) {
	switch {
	case t.known == nil:
		return true
	case e.Kind == KindLost, e.Kind == KindNexthop:
		t.must = true
	case e.Kind == KindRoute:
		return t.route(e.Route, e.Removed, isManaged)
	case e.Kind == KindLink, e.Kind == KindAddress && e.Removed:
		t.deviceChanged(e.Interface, isManaged(e.Interface) || e.Global)
	}
	return true
}

// deviceChanged is about an interface that may have taken routes along. What managed ones had matters at once, and so does an
// address that others may reach, wherever it was: it is no own address any more, and default routes may have had it as source.
func (t *Table) deviceChanged(device int, atOnce bool) {
	any, byDefault := t.known.scan.Name(device)
	t.must = t.must || byDefault || any && atOnce
	t.may = t.may || any
}

// route is about one that has come or gone. A default route is so rare, and matters so much, that all are read.
func (t *Table) route(r *dump.Route, removed bool, isManaged func(int) bool) (look bool) {
	switch {
	case r.Protocol == discover.OwnProtocol: // see Find
		return true
	case r.Dst.Bits() == 0:
		t.must = true
		return true
	}
	network := r.Dst.Masked()
	t.may = t.may || t.known.reaches.keep(r.Family, network) || t.known.scan.Keep(r.Family, network)
	return !removed && t.known.add(r, isManaged)
}

// add adds what a route tells, and tells whether that matters: an own address does, what leads
// by a managed interface, and that any leads out of an interface, managed or not. All else waits for one of these.
func (k *knowledge) add(r *dump.Route, isManaged func(int) bool) (matters bool) {
	k.collectWay(r)
	_, more := k.reaches.collect(r)
	scan, hops := k.scan.News(), k.hops.News()
	concerns := r.Type == unix.RTN_LOCAL || slices.ContainsFunc(r.Hops, func(h dump.Hop) bool { return isManaged(h.Interface) })
	return k.scan.NewWay() || concerns && (more || scan || hops)
}

func (k *knowledge) equal(other *knowledge) bool {
	return k.scan.Equal(other.scan) && k.hops.Equal(other.hops) && k.reaches.equal(other.reaches)
}
