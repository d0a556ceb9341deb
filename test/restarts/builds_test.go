// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"os"
	"path/filepath"
	"testing"

	"replypath/test/harness"
	"replypath/test/restarts/builds"
	"replypath/test/topology"
)

// source is the tree that other builds are made of, seen from this package.
const source = "../.."

// binaryOf returns the path of a build.
func binaryOf(t *testing.T, b *builds.Build) string {
	t.Helper()
	if path := os.Getenv(b.Variable); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), b.Name)
	harness.Must(t, b.Make(t.Context(), source, path, harness.Version(t)))
	return path
}

// startBuild starts a build's daemon and waits until it is ready.
func startBuild(p *harness.Product, binary string, args ...string) *harness.Daemon {
	d := p.LaunchAs(func(c *topology.Cmd) { c.Path = binary }, args...)
	d.WaitReady()
	return d
}
