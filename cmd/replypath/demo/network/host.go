// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a network namespace, and a mount namespace with a BPF file system that nobody else sees: the pins in there end
// with the last process of the host.
type Host struct {
	name   string
	number byte // in its MACs
	nics   byte
	// -1 for none.
	net, mounts netns.NsHandle
	root        *os.File // in the mount namespace, whose own root another one is where the demo runs in a chroot
}

// newHost makes a host whose loopback is up, and that forwards packets if it is a router.
func newHost(name string, number byte, router bool) (*Host, error) {
	h := &Host{name: name, number: number, mounts: netns.None()}
	err := onOwnThread(func() (err error) {
		if h.net, err = netns.New(); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if err := h.makeMounts(); err != nil {
			return err
		}
		if err := setSysctls(router); err != nil {
			return err
		}
		return netlink.LinkSetUp(named("lo"))
	})
	if err != nil {
		return nil, fmt.Errorf("make host %s: %w", name, errors.Join(err, h.close()))
	}
	return h, nil
}

// bpfDir is the default place of pins. The kernel makes the directory.
const bpfDir = "/sys/fs/bpf"

// makeMounts gives the calling thread a mount namespace of its own.
func (h *Host) makeMounts() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	// Without this the mount below would be the machine's as well.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("bpf", bpfDir, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpf file system on %s: %w", bpfDir, err)
	}
	if h.root, err = os.Open("/"); err != nil {
		return err
	}
	h.mounts, err = netns.GetFromPath("/proc/thread-self/ns/mnt")
	return err
}

// setSysctls makes the calling thread's namespace independent of the machine's IPv4 settings, which it inherits
// (net.core.devconf_inherit_init_net): distributions ship other values than the kernel's, of rp_filter above all.
// IPv6 addresses are not probed for duplicates, which takes a second.
func setSysctls(router bool) error {
	forwarding := "0"
	if router {
		forwarding = "1"
	}
	settings := [][2]string{
		{"ipv4/ip_forward", forwarding}, // first, as a write that changes it resets others
		{"ipv6/conf/all/forwarding", forwarding},
	}
	for _, devices := range []string{"all", "default"} {
		for _, key := range []string{
			"accept_local", "arp_announce", "arp_filter", "arp_ignore", "ignore_routes_with_linkdown",
			"log_martians", "rp_filter", "src_valid_mark",
		} {
			settings = append(settings, [2]string{"ipv4/conf/" + devices + "/" + key, "0"})
		}
		for _, key := range []string{"accept_redirects", "secure_redirects", "send_redirects"} {
			settings = append(settings, [2]string{"ipv4/conf/" + devices + "/" + key, "1"})
		}
		for _, key := range []string{"accept_dad", "dad_transmits"} {
			settings = append(settings, [2]string{"ipv6/conf/" + devices + "/" + key, "0"})
		}
	}
	for _, s := range settings {
		if err := os.WriteFile("/proc/sys/net/"+s[0], []byte(s[1]), 0); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) close() error {
	var errs []error
	if h.root != nil {
		errs = append(errs, h.root.Close())
	}
	for _, namespace := range []netns.NsHandle{h.net, h.mounts} {
		if namespace.IsOpen() {
			errs = append(errs, namespace.Close())
		}
	}
	return errors.Join(errs...)
}

// Do runs fn on a thread inside the host's namespaces. What fn opens stays there. A process that fn starts may ask to
// be killed when that thread ends: it does when fn returns.
func (h *Host) Do(fn func() error) error {
	return onOwnThread(func() error {
		if err := h.enter(); err != nil {
			return fmt.Errorf("enter the namespaces of %s: %w", h.name, err)
		}
		return fn()
	})
}

// enter moves the calling thread into the host's namespaces.
func (h *Host) enter() error {
	if err := netns.Set(h.net); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // a thread that shares its root cannot change the mounts
		return err
	}
	if err := unix.Setns(int(h.mounts), unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := h.root.Chdir(); err != nil {
		return err
	}
	return unix.Chroot(".")
}

// onOwnThread runs fn on a thread that serves nobody else afterwards.
func onOwnThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- fn()
	}()
	return <-result
}

// in opens something on a host.
func in[T any](h *Host, open func() (T, error)) (opened T, err error) {
	err = h.Do(func() error {
		opened, err = open()
		return err
	})
	return opened, err
}

// noKeepAlives has nothing leave by a connection that nobody has sent.
const noKeepAlives = -1

// Listen opens a TCP listener, which belongs to the caller. It never speaks Multipath TCP.
func (h *Host) Listen(ctx context.Context, address string) (net.Listener, error) {
	config := net.ListenConfig{KeepAlive: noKeepAlives}
	config.SetMultipathTCP(false)
	return in(h, func() (net.Listener, error) { return config.Listen(ctx, "tcp", address) })
}

// ListenPacket opens a socket for datagrams, which belongs to the caller.
func (h *Host) ListenPacket(ctx context.Context, protocol, address string) (net.PacketConn, error) {
	return in(h, func() (net.PacketConn, error) { return new(net.ListenConfig).ListenPacket(ctx, protocol, address) })
}

// Dial connects by "tcp" or "udp", from an address where local is not nil. The connection belongs to the caller.
func (h *Host) Dial(ctx context.Context, protocol, address string, local net.Addr) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: local, KeepAlive: noKeepAlives}
	return in(h, func() (net.Conn, error) { return dialer.DialContext(ctx, protocol, address) })
}

// named is a link that netlink finds by its name.
func named(name string) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: name}}
}
