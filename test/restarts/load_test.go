// SPDX-License-Identifier: Apache-2.0

// Package restarts tests that the daemon may die and the program may change, at
// any moment and again and again, under traffic.
package restarts

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/product"
	_ "replypath/test/product/inprocess"
	"replypath/test/restarts/builds"
	"replypath/test/server"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

const (
	// busy is how many connections are open all the time, half of each family.
	busy = 100
	// busyPace is how often each of them asks, newPace how often a new one begins.
	busyPace = 200 * time.Millisecond
	newPace  = 40 * time.Millisecond
	// datagramPace is how often UDP and ping ask, of which nothing is sent again, so that whatever is lost shows.
	datagramPace = 10 * time.Millisecond
)

// startLoad has connections, new ones, UDP and ping of each family ask until the test ends.
func startLoad(t *testing.T, n *topology.TwoNIC) *server.Load {
	t.Helper()
	return server.StartLoad(t, n, func(client *topology.Host, to netip.AddrPort) []*traffic.Asker {
		all := []*traffic.Asker{{Kind: traffic.TCP, From: client, To: to, Pace: newPace, Fresh: true},
			{Kind: traffic.UDP, From: client, To: to, Pace: datagramPace}, {Kind: traffic.Ping, From: client, To: to, Pace: datagramPace}}
		for range busy / len(n.Families()) {
			all = append(all, &traffic.Asker{Kind: traffic.TCP, From: client, To: to, Pace: busyPace})
		}
		return all
	})
}

// wantAstray shows that what is tested makes a difference: without it answers of each of these kinds leave by eth0, of
// both families.
func wantAstray(l *server.Load, kinds ...topology.Filter) {
	l.Helper()
	begun, missing := len(l.Strays()), []topology.Filter(nil)
	for _, kind := range kinds {
		for _, f := range l.Net.Families() {
			missing = append(missing, topology.All(kind, topology.From(l.Net.Server.Eth1.Address(f))))
		}
	}
	await.Eventually(l, "replies leave by eth0", func() error {
		strays := l.Strays()[begun:]
		missing = slices.DeleteFunc(missing, func(match topology.Filter) bool { return slices.ContainsFunc(strays, match) })
		if len(missing) > 0 {
			return fmt.Errorf("of %d kinds none does", len(missing))
		}
		return nil
	})
}

// report ends the load and wants it whole, and returns the frames that went astray.
func report(l *server.Load, what string, args ...any) (strays []*topology.Frame) {
	l.Helper()
	said, strays := l.Finish()
	l.Logf("%s under %d open connections, new ones, UDP and ping: %s", fmt.Sprintf(what, args...), busy, said)
	return strays
}

// wantFew wants that no more frames went astray than so many each time that flow tables took the place of others.
// What comes in while the programs of the interfaces are replaced, one after the other, is in tables that not all of
// them look at: its answer goes as routed.
func wantFew(t *testing.T, strays []*topology.Frame, each, exchanges int) {
	t.Helper()
	if len(strays) > each*exchanges {
		t.Errorf("more than %d frames at each of %d exchanges of the tables: by eth0 left %s", each, exchanges, wire.Describe(strays))
	}
}

// wantNone wants that nothing went astray.
func wantNone(t *testing.T, strays []*topology.Frame) {
	t.Helper()
	if len(strays) > 0 {
		t.Errorf("by eth0 left %s", wire.Describe(strays))
	}
}

func TestMain(m *testing.M) { product.Main(m) }

// timesVariable says how often everything is done.
const timesVariable = "REPLYPATH_TEST_RESTARTS"

// times is how often something is done of which there are so many kinds: each kind once with -short.
func times(t *testing.T, kinds int) int {
	t.Helper()
	if text := os.Getenv(timesVariable); text != "" {
		return await.Must1[int](t)(strconv.Atoi(text))
	}
	if short.Run(t) {
		return kinds
	}
	return 30
}

var building sync.Mutex

// binaryOf returns the path of a build, which is made of this tree, once, where the environment names none.
func binaryOf(t *testing.T, b *builds.Build) string {
	t.Helper()
	if path := os.Getenv(b.Variable); path != "" {
		return path
	}
	building.Lock()
	defer building.Unlock()
	path := filepath.Join(os.TempDir(), b.Name) // which goes with this process
	if _, err := os.Stat(path); err != nil {
		await.Must(t, b.Make(t.Context(), "../..", path, product.Version(t)))
	}
	return path
}

// startBuild starts a build's daemon and waits until it is ready.
func startBuild(p *product.Product, binary string, args ...string) *product.Daemon {
	d := p.LaunchAs(func(c *topology.Cmd) { c.Path = binary }, args...)
	d.WaitReady()
	return d
}
