package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a network namespace.
type Host struct {
	name   string
	number byte // in its MACs
	nics   byte
	ns     netns.NsHandle
}

// newHost makes a host whose loopback is up, and that forwards packets if it is a router.
func newHost(name string, number byte, router bool) (*Host, error) {
	h := &Host{name: name, number: number, ns: netns.None()}
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		if h.ns, err = netns.Get(); err != nil {
			return err
		}
		if err := setSysctls(router); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		return nil, fmt.Errorf("make host %s: %w", name, errors.Join(err, h.close()))
	}
	return h, nil
}

// setSysctls makes the calling thread's namespace independent of the machine's IPv4 settings, which it inherits
// (net.core.devconf_inherit_init_net): distributions ship other values than the kernel's, of rp_filter above all.
// IPv6 addresses are not probed for duplicates, which takes a second.
func setSysctls(router bool) error {
	forwarding := "0"
	if router {
		forwarding = "1"
	}
	// First, as a write that changes it resets others.
	if err := setSysctl("ipv4/ip_forward", forwarding); err != nil {
		return err
	}
	if err := setSysctl("ipv6/conf/all/forwarding", forwarding); err != nil {
		return err
	}
	for key, value := range map[string]string{
		"ipv4/conf/%s/accept_local":                "0",
		"ipv4/conf/%s/accept_redirects":            "1",
		"ipv4/conf/%s/arp_announce":                "0",
		"ipv4/conf/%s/arp_filter":                  "0",
		"ipv4/conf/%s/arp_ignore":                  "0",
		"ipv4/conf/%s/ignore_routes_with_linkdown": "0",
		"ipv4/conf/%s/log_martians":                "0",
		"ipv4/conf/%s/rp_filter":                   "0",
		"ipv4/conf/%s/secure_redirects":            "1",
		"ipv4/conf/%s/send_redirects":              "1",
		"ipv4/conf/%s/src_valid_mark":              "0",
		"ipv6/conf/%s/accept_dad":                  "0",
		"ipv6/conf/%s/dad_transmits":               "0",
	} {
		for _, devices := range []string{"all", "default"} {
			if err := setSysctl(fmt.Sprintf(key, devices), value); err != nil {
				return err
			}
		}
	}
	return nil
}

func setSysctl(key, value string) error {
	return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0)
}

func (h *Host) close() error {
	if !h.ns.IsOpen() {
		return nil
	}
	return h.ns.Close()
}

// Do runs fn on a thread inside the host's namespace. What fn opens stays there. A process that fn starts may ask to
// be killed when that thread ends: it does when fn returns.
func (h *Host) Do(fn func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return fmt.Errorf("enter the network namespace of %s: %w", h.name, err)
		}
		return fn()
	})
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

// noKeepAlives has nothing leave by a connection that nobody has sent.
const noKeepAlives = -1

// Listen opens a TCP listener, which belongs to the caller. It never speaks Multipath TCP.
func (h *Host) Listen(ctx context.Context, address netip.AddrPort) (listener net.Listener, err error) {
	config := net.ListenConfig{KeepAlive: noKeepAlives}
	config.SetMultipathTCP(false)
	err = h.Do(func() error {
		listener, err = config.Listen(ctx, "tcp", address.String())
		return err
	})
	return listener, err
}

// ListenPacket opens a socket for datagrams, which belongs to the caller.
func (h *Host) ListenPacket(ctx context.Context, protocol, address string) (conn net.PacketConn, err error) {
	err = h.Do(func() error {
		conn, err = new(net.ListenConfig).ListenPacket(ctx, protocol, address)
		return err
	})
	return conn, err
}

// Dial connects by "tcp" or "udp", from an address where local is not nil. The connection belongs to the caller.
func (h *Host) Dial(ctx context.Context, protocol, address string, local net.Addr) (conn net.Conn, err error) {
	err = h.Do(func() error {
		conn, err = (&net.Dialer{LocalAddr: local, KeepAlive: noKeepAlives}).DialContext(ctx, protocol, address)
		return err
	})
	return conn, err
}
