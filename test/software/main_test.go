// SPDX-License-Identifier: Apache-2.0

// Package software runs programs of Debian 12 on the networks that people brought: what they do for a living fails
// without replypath and works with it.
package software

import (
	"os"
	"os/exec"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/wire"
)

func TestMain(m *testing.M) { product.Main(m) }

// need fails the test unless a program is there.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%v: run test/install-packages.sh", err)
	}
	return path
}

// publicDir makes a directory that other users can enter, for the test.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := await.Must1[string](t)(os.MkdirTemp("", "replypath-software-"))
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	await.Must(t, os.Chmod(dir, 0o755))
	return dir
}

// crossing watches both ends of a conversation between the servers of S1.
type crossing struct{ a, b *wire.Wires }

func watchBoth(t *testing.T, s *topology.S1) crossing {
	t.Helper()
	return crossing{a: wire.Tap(t, s.A), b: wire.Tap(t, s.B)}
}

// wantEth1 wants all of what both servers sent by eth1.
func (c crossing) wantEth1(what string, match topology.Filter) {
	c.a.WantEth1("A: "+what, match)
	c.b.WantEth1("B: "+what, match)
}
