// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/problems"
	"replypath/test/await"
	"replypath/test/topology"
)

// TestEachConnection: connections that are established are visited, once from each end, and no other sockets; until one
// is enough, or the time has come and some have been visited.
func TestEachConnection(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := topology.NewS1(ctx, topology.S1Options{})
	await.Must(t, err)
	defer func() { await.Must(t, s.Close()) }()
	families := map[topology.Family]uint8{topology.IPv4: unix.AF_INET, topology.IPv6: unix.AF_INET6}
	for _, f := range s.Families() {
		address := s.B.Eth0.Address(f)
		listener, err := s.B.Listen(ctx, "tcp", netip.AddrPortFrom(address, 0).String())
		await.Must(t, err)
		defer listener.Close()
		for range 3 {
			client, err := s.B.Dial(ctx, "tcp", listener.Addr().String())
			await.Must(t, err)
			defer client.Close()
			server, err := listener.Accept()
			await.Must(t, err)
			defer server.Close()
		}
		port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
		look := func(some int, until time.Time, enough int) (visited, servers int, err error) {
			await.Must(t, s.B.Do(func() error {
				err = EachConnection(families[f], some, until, func(c *Socket) bool {
					self, peer := c.Local.Addr(), c.Remote.Addr()
					if self != address || peer != address || c.Heard > time.Minute {
						t.Errorf("%s: %s to %s, heard of %s ago", f, self, peer, c.Heard)
					}
					if c.Local.Port() == port {
						servers++
					}
					visited++
					return visited < enough
				})
				return nil
			}))
			return visited, servers, err
		}
		later := time.Now().Add(time.Minute)
		all, servers, err := look(0, later, 100)
		one, _, oneErr := look(0, later, 1)
		none, _, late := look(0, time.Now(), 100)
		few, _, fewErr := look(100, time.Now(), 100)
		t.Logf("%s: %d visited, %d of them servers'; where one is enough %d; where there is no time %d: %v; or fewer than always %d",
			f, all, servers, one, none, late, few)
		if err != nil || oneErr != nil || fewErr != nil || !errors.Is(late, ErrUnfinished) {
			t.Errorf("%s: errors %v, %v, %v, %v", f, err, oneErr, late, fewErr)
		}
		var panicked *problems.Panic
		err = s.B.Do(func() error { return EachConnection(families[f], 0, later, func(*Socket) bool { panic("injected") }) })
		if !errors.As(err, &panicked) {
			t.Errorf("%s: a panic is %v", f, err)
		}
		if all != 6 || servers != 3 || one != 1 || none != 0 || few != 6 {
			t.Errorf("%s: visited other numbers than 6, 3, 1, 0 and 6", f)
		}
	}
}
