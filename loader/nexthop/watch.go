// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// events are the multicast groups that Watch joins.
var events = []uint{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEXTHOP,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
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
		s.Close()
	})
	go func() {
		defer close(w.events) // nothing is open any more
		w.run(ctx)
		if stop() {
			s.Close()
		} else {
			<-closed
		}
		unix.Close(s.queue)
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
			if event, ok := parseCaught(m); ok && !w.send(ctx, event) {
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
