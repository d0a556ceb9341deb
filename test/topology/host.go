// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a network namespace with a name for messages. Its loopback is up.
type Host struct {
	// Name tells the host from the others of its network.
	Name string

	network *Network
	number  int
	ns      netns.NsHandle
	handle  *netlink.Handle
	nics    int
}

// Host makes a host with the kernel's own defaults, whatever the machine around it is set to: no forwarding, no
// rp_filter. Duplicate address detection is off, so that IPv6 addresses are ready in milliseconds.
func (n *Network) Host(name string) (*Host, error) {
	h, err := n.newHost(name)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	return h, nil
}

func (n *Network) newHost(name string) (*Host, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	h := &Host{Name: name, network: n, ns: ns}
	if err := n.onClose(h.close); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.hosts = append(n.hosts, h)
	h.number = len(n.hosts)
	n.mu.Unlock()

	if h.handle, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if err := h.setDefaults(n.options); err != nil {
		return nil, err
	}
	lo, err := h.handle.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find lo: %w", err)
	}
	if err := h.handle.LinkSetUp(lo); err != nil {
		return nil, fmt.Errorf("set lo up: %w", err)
	}
	return h, nil
}

func (h *Host) close() error {
	if h.handle != nil {
		h.handle.Close()
	}
	if err := h.ns.Close(); err != nil {
		return fmt.Errorf("host %s: close the namespace: %w", h.Name, err)
	}
	return nil
}

// Do runs fn on a thread inside the host's namespace and returns its error. Calls may be nested. The thread is put back
// also when fn panics or calls runtime.Goexit. fn must not unlock the thread.
func (h *Host) Do(fn func() error) error {
	return inNamespace(h.ns, fn)
}

// Netlink returns the host's rtnetlink handle. It is closed with the network.
func (h *Host) Netlink() *netlink.Handle {
	return h.handle
}

// Namespace returns the descriptor that holds the host's namespace. It is closed with the network.
func (h *Host) Namespace() netns.NsHandle {
	return h.ns
}

// errorf names the host in an error.
func (h *Host) errorf(format string, args ...any) error {
	return fmt.Errorf("host %s: %w", h.Name, fmt.Errorf(format, args...))
}

// named is errorf for an error that there may be: it says what went wrong, nil where nothing did.
func (h *Host) named(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return h.errorf("%s: %w", fmt.Sprintf(format, args...), err)
}

// valueIn returns what fn does on a thread inside the host's namespace.
func valueIn[T any](h *Host, fn func() (T, error)) (value T, err error) {
	err = h.Do(func() error {
		value, err = fn()
		return err
	})
	return value, err
}

// retryDump repeats a netlink dump that a concurrent change has interrupted.
func retryDump[T any](dump func() (T, error)) (T, error) {
	for {
		result, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return result, err
		}
	}
}

// newNamespace makes a network namespace that only the returned descriptor holds. The calling thread stays where it
// was.
func newNamespace() (netns.NsHandle, error) {
	created := netns.None()
	err := preserveNamespace(func() error {
		var err error
		created, err = netns.New()
		return err
	})
	if err != nil {
		if created.IsOpen() {
			err = errors.Join(err, created.Close())
		}
		return netns.None(), fmt.Errorf("make a network namespace: %w", err)
	}
	return created, nil
}

// inNamespace runs fn on a thread that is in the network namespace.
func inNamespace(handle netns.NsHandle, fn func() error) error {
	return preserveNamespace(func() error {
		if err := netns.Set(handle); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return fn()
	})
}

// preserveNamespace runs fn, which may change the network namespace of its thread, and puts the thread back afterwards,
// also when fn panics or ends its goroutine.
func preserveNamespace(fn func() error) (err error) {
	runtime.LockOSThread()
	origin, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the network namespace of this thread: %w", err)
	}
	defer func() {
		restored := netns.Set(origin)
		err = errors.Join(err, origin.Close())
		if restored != nil {
			// The thread stays locked: it must not serve another goroutine.
			err = errors.Join(err, fmt.Errorf("return to the network namespace of this thread: %w", restored))
			return
		}
		runtime.UnlockOSThread()
	}()
	return fn()
}
