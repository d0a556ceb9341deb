// SPDX-License-Identifier: Apache-2.0

// Package restarts tests that the daemon may die and the program may change, at
// any moment and again and again, under traffic.
package restarts

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	_ "replypath/test/product/inprocess"
	"replypath/test/restarts/builds"
	"replypath/test/short"
	"replypath/test/topology"
)

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
