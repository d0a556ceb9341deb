package nexthop

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// Kind says what an event is about.
type Kind int

// Kinds of events.
const (
	// KindLink: an interface came, went or changed, its ports included.
	KindLink Kind = iota
	// KindAddress: an interface got, lost or changed an address.
	KindAddress
	// KindRoute: a route, rule or nexthop object came, went or changed.
	KindRoute
	// KindNeighbour: a neighbour entry got another state or MAC address.
	KindNeighbour
	// KindRPFilter: the sysctl rp_filter was written.
	KindRPFilter
	// KindLost: events were dropped; whatever they were about has to be read
	// anew.
	KindLost
)

// kinds are the words for logs.
var kinds = [...]string{"link", "address", "route", "neighbour", "rp_filter", "lost"}

// String returns a word for logs.
func (k Kind) String() string { return kinds[k] }

// Event is a change in the network namespace.
type Event struct {
	Kind Kind
	// Interface is the index of what changed, managed or not; 0 where the event
	// names none, or several.
	Interface int
	// Removed tells that the interface or address has gone (KindLink and
	// KindAddress).
	Removed bool
	// NoCarrier tells that the link had none when the event was made (KindLink). It may be
	// back already.
	NoCarrier bool
	// Neighbour is the entry of a KindNeighbour, of a gateway or any other
	// neighbour. IPv4 and IPv6 are not set; the state of one that was deleted is
	// StateNone.
	Neighbour Gateway
	// Err says why events were lost.
	Err error
}

// events are the multicast groups that Watch joins.
var events = []uint{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEXTHOP,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_NETCONF,
}

// Watch reports changes in the network namespace of the calling thread, from
// now on: what is read after it returns is complete together with the events.
// A slow receiver is waited for; what does not fit the kernel's buffer meanwhile
// is reported as a KindLost.
//
// The channel is closed when ctx ends. It is closed early only after a KindLost
// whose Err says why nothing can be received any more.
func Watch(ctx context.Context) (<-chan Event, error) {
	return watch(ctx, receiveBuffer)
}

func watch(ctx context.Context, receiveBuffer int) (<-chan Event, error) {
	s, err := subscribe(receiveBuffer, events...)
	if err != nil {
		return nil, err
	}
	w := &watcher{socket: s, events: make(chan Event, 64)}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		s.close()
	})
	go func() {
		defer close(w.events) // nothing is open any more
		w.run(ctx)
		if stop() {
			s.close()
		} else {
			<-closed
		}
	}()
	return w.events, nil
}

type watcher struct {
	socket *socket
	events chan Event
}

// run forwards events until ctx ends or the socket fails.
func (w *watcher) run(ctx context.Context) {
	for {
		messages, err := w.socket.receive()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if !w.send(ctx, Event{Kind: KindLost, Err: err}) || !errors.Is(err, errLost) {
				return
			}
			continue
		}
		for _, m := range messages {
			if event, ok := parse(m); ok && !w.send(ctx, event) {
				return
			}
		}
	}
}

// send tells whether the event was taken before ctx ended.
func (w *watcher) send(ctx context.Context, e Event) bool {
	select {
	case w.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}
