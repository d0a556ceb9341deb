// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"testing"

	"replypath/bpf"
	"replypath/test/await"
)

// A handshake that ends between two looks is no other flow, nor is one that begins with the tuple of a connection: it
// is one as soon as it takes its place.
func TestChangesOfConnection(t *testing.T) {
	const digest = 7
	name := func(s string) *string { return &s }
	type entry struct {
		table bpf.DatapathTable
		flow  Flow
	}
	look := func(entries ...entry) snapshot {
		s := make(snapshot)
		for _, e := range entries {
			s.add(e.table, digest, e.flow)
		}
		return s
	}
	halfOpen := func(age float64, via string) entry {
		return entry{bpf.DatapathTableTABLE_HALF_OPEN, Flow{Interface: name(via), State: "half-open", AgeSeconds: age}}
	}
	established := func(age float64, via string) entry {
		return entry{bpf.DatapathTableTABLE_ESTABLISHED, Flow{Interface: name(via), State: "established", AgeSeconds: age}}
	}
	for _, test := range []struct {
		name          string
		before, after snapshot
		want          string
	}{
		{"begins", look(), look(halfOpen(0, "eth1")), EventNew},
		{"handshake ends", look(halfOpen(1, "eth1")), look(established(2, "eth1")), ""},
		{"handshake ends elsewhere", look(halfOpen(1, "eth1")), look(established(2, "eth2")), EventMoved},
		{"another handshake", look(established(9, "eth1")), look(halfOpen(0, "eth2"), established(10, "eth1")), ""},
		{"the same, read the other way round", look(established(9, "eth1")), look(established(10, "eth1"), halfOpen(0, "eth2")), ""},
		{"another connection", look(established(9, "eth1"), halfOpen(0, "eth1")), look(established(1, "eth1")), EventNew},
		{"ends", look(established(9, "eth1")), look(), EventEnded},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got string
			await.Must(t, changes(test.before, test.after, func(f Flow) error { got += f.Event; return nil }))
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
