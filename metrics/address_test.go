// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// At boot the daemon may be there before its address is.
func TestServeUntilAddressAppears(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes a network namespace")
	}
	for _, address := range []string{"192.0.2.1/32", "2001:db8::1/128"} {
		t.Run(address, func(t *testing.T) {
			ip, subnet, err := net.ParseCIDR(address)
			if err != nil {
				t.Fatal(err)
			}
			ns := newNamespace(t)
			nl, err := netlink.NewHandleAt(ns)
			if err != nil {
				t.Fatal(err)
			}
			defer nl.Close()
			lo, err := nl.LinkByName("lo")
			if err != nil {
				t.Fatal(err)
			}
			if err := nl.LinkSetUp(lo); err != nil {
				t.Fatal(err)
			}

			o := options(t)
			o.Listen = net.JoinHostPort(ip.String(), "9945")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			reports, ended := make(chan error, 10), make(chan struct{})
			go inNamespace(t, ns, func() {
				defer close(ended)
				ServeUntil(ctx, o, func(err error) { reports <- err })
			})
			if err := receive(t, reports); !errors.Is(err, syscall.EADDRNOTAVAIL) {
				t.Fatalf("got report %v, want that there is no such address", err)
			}
			if err := nl.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: subnet.Mask}}); err != nil {
				t.Fatal(err)
			}
			if err := receive(t, reports); err != nil {
				t.Fatalf("got report %v, want nil: the address is there", err)
			}
			request := newRequest(t, fmt.Sprintf("http://%s/metrics", o.Listen))
			if status, body := fetch(t, newClientIn(t, ns), request); status != http.StatusOK {
				t.Errorf("got %d: %s", status, body)
			}
			cancel()
			receive(t, ended)
		})
	}
}

// newNamespace returns a network namespace that ends with the test.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	created := make(chan netns.NsHandle)
	go func() {
		defer close(created)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := netns.New()
		if err != nil {
			t.Errorf("make a network namespace (it takes root): %v", err)
			return
		}
		created <- ns
	}()
	ns, ok := <-created
	if !ok {
		t.FailNow()
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// inNamespace runs do on a thread of its own that is in ns. It is to be called on
// a goroutine of its own, which ends with it.
func inNamespace(t *testing.T, ns netns.NsHandle, do func()) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	if err := netns.Set(ns); err != nil {
		t.Errorf("enter the network namespace: %v", err)
		return
	}
	do()
}

// newClientIn returns a client that connects from ns.
func newClientIn(t *testing.T, ns netns.NsHandle) *http.Client {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		type result struct {
			conn net.Conn
			err  error
		}
		results := make(chan result, 1)
		go inNamespace(t, ns, func() {
			var d net.Dialer
			conn, err := d.DialContext(ctx, network, address)
			results <- result{conn, err}
		})
		select {
		case r := <-results:
			return r.conn, r.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &http.Client{Timeout: deadline, Transport: &http.Transport{DialContext: dial}}
}
