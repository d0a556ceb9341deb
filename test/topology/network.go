// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"errors"
	"net"
	"sync"
)

// Options are the properties that all hosts of a network share.
type Options struct {
	// NoIPv6 disables IPv6 on every host, as a sysctl does it.
	NoIPv6 bool
}

// Network owns hosts, links, captures and processes. Its methods and those of what it owns may be called from several
// goroutines, except where noted.
type Network struct {
	options Options

	mu         sync.Mutex
	closed     bool
	closers    []func() error
	hosts      []*Host
	interfaces []*Interface
	processes  map[*Cmd]struct{}
	launcher   *launcher

	recording sync.Mutex
	recorders map[recorderKey]*recorder
}

// New returns a network without hosts.
func New(options Options) *Network {
	return &Network{options: options, processes: make(map[*Cmd]struct{}), recorders: make(map[recorderKey]*recorder)}
}

// Families returns the IP versions that the network has.
func (n *Network) Families() []Family {
	if n.options.NoIPv6 {
		return []Family{IPv4}
	}
	return []Family{IPv4, IPv6}
}

// ErrClosed says that the network has been closed.
var ErrClosed = errors.New("network is closed")

// onClose has fn called by Close, before everything that was registered earlier. When the network is closed already, it
// calls fn at once.
func (n *Network) onClose(fn func() error) error {
	n.mu.Lock()
	if !n.closed {
		n.closers = append(n.closers, fn)
		n.mu.Unlock()
		return nil
	}
	n.mu.Unlock()
	return errors.Join(ErrClosed, fn())
}

// Close kills the processes that still run in the network, ends its captures and gives up its namespaces, newest first.
// It goes on after an error and returns all of them; a second call does nothing.
//
// The kernel takes a namespace apart, with the links in it, shortly after its last user is gone. Sockets that callers
// opened and keep open are such users.
func (n *Network) Close() error {
	n.mu.Lock()
	closers, launcher := n.closers, n.launcher
	n.closed, n.closers, n.launcher = true, nil, nil
	n.mu.Unlock()

	errs := []error{n.killProcesses()}
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i]())
	}
	launcher.stop()
	return errors.Join(errs...)
}

// WaitReady returns when every interface made so far has its carrier and accepts packets for its addresses.
func (n *Network) WaitReady(ctx context.Context) error {
	n.mu.Lock()
	interfaces := append([]*Interface(nil), n.interfaces...)
	n.mu.Unlock()
	for _, i := range interfaces {
		if err := i.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// mac returns the address of a host's interface, both counted from 0: readable in a capture, locally administered, and
// the same in every run.
func mac(host, nic int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0, 0, byte(host >> 8), byte(host), byte(nic)}
}
