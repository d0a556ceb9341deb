// SPDX-License-Identifier: Apache-2.0

package testhost

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// WriteFiles makes files below a root.
func WriteFiles(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		await.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// NewNetwork returns a host with interfaces in a namespace of its own.
func NewNetwork(t *testing.T) (*topology.Network, *topology.Host) {
	t.Helper()
	n := traffic.NewNetwork(t)
	h := await.Must1[*topology.Host](t)(n.Host("host"))
	far := await.Must1[*topology.Host](t)(n.Host("far"))
	for _, name := range []string{"eth0", "eth1"} {
		if _, _, err := n.Connect(topology.NIC{Host: h, Name: name}, topology.NIC{Host: far, Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	return n, h
}

// Run runs a program on a host.
func Run(t *testing.T, h *topology.Host, stdin, name string, args ...string) {
	t.Helper()
	c := h.Command(t.Context(), name, args...)
	c.Stdin = strings.NewReader(stdin)
	if output, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s\n%s", name, args, err, stdin, output)
	}
}
