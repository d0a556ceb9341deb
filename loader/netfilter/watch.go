// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// quiet is how long a change waits for others: who writes rules often writes several.
	quiet = 20 * time.Millisecond
	// restFactor bounds the share of time that goes into reading large sets of rules that change all the time.
	restFactor = 10
	// mostReadings is how often rules are read that change meanwhile: what was read before and after need not fit together.
	mostReadings = 3
)

// Watcher knows which destinations the rules of a network namespace translate. The zero value knows of none.
type Watcher struct {
	tables  *nfTables
	socket  *os.File
	stirred chan struct{} // something was written
	changed chan struct{}
	ended   chan struct{}
	done    sync.WaitGroup

	mu    sync.Mutex
	known []netip.Prefix
	err   error
}

// Begin reads the rules in the network namespace of the calling thread, and follows them until End. A kernel without
// nf_tables has none.
func (w *Watcher) Begin() {
	w.stirred, w.changed, w.ended = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
	if w.err = w.open(); w.err != nil {
		if lacksNFTables(w.err) {
			w.err = nil
		}
		return
	}
	w.look()
	w.done.Go(w.listen)
	w.done.Go(w.follow)
}

func (w *Watcher) open() (err error) {
	if w.tables, err = open(); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err == nil {
		w.socket = os.NewFile(uintptr(fd), "nftables")
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	}
	return err
}

// End ends it.
func (w *Watcher) End() {
	if w.socket != nil {
		close(w.ended)
		w.socket.Close()
	}
	w.done.Wait()
	if w.tables != nil {
		w.tables.close()
	}
	w.socket, w.tables = nil, nil
}

// Changed has something in it when Translated returns something else than before.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Translated are the destinations that rules translate, as they were read last, at most MostTranslated. An error tells
// what could not be read, or that there are more.
func (w *Watcher) Translated() ([]netip.Prefix, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known, w.err
}

// listen waits for changes. What they are about is not looked at; that some were lost is one, too.
func (w *Watcher) listen() {
	defer close(w.stirred)
	buffer := make([]byte, 64<<10)
	for {
		if _, err := w.socket.Read(buffer); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		tell(w.stirred)
	}
}

// follow reads the rules once they have changed.
func (w *Watcher) follow() {
	for range w.stirred {
		w.rest(quiet)
		begun := time.Now()
		if w.look() {
			tell(w.changed)
		}
		w.rest(restFactor * time.Since(begun))
	}
}

// rest waits, but not beyond the end.
func (w *Watcher) rest(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.ended:
	}
}

// look reads the rules, and tells whether something has changed.
func (w *Watcher) look() bool {
	var now Ruleset
	var err error
	for range mostReadings {
		for len(w.stirred) > 0 {
			<-w.stirred // before this reading
		}
		now = Ruleset{}
		if err = (&reader{nfTables: w.tables}).read(&now); len(w.stirred) == 0 {
			break
		}
	}
	if lacksNFTables(err) {
		err = nil
	}
	if len(now.Translated) > MostTranslated {
		now.Translated = now.Translated[:MostTranslated]
		err = errTooMany
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && err != errTooMany {
		now.Translated = w.known // as far as anybody knows
	}
	changed := !slices.Equal(w.known, now.Translated) || !errors.Is(err, w.err)
	w.known, w.err = now.Translated, err
	return changed
}

var errTooMany = errors.New("firewall rules translate more addresses than are served: name their networks in `addresses`")

func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
