// SPDX-License-Identifier: Apache-2.0

package view

import (
	"testing"

	"replypath/loader/attach"
	"replypath/test/await"
)

// halfAttached lacks the egress program of one interface.
type halfAttached struct {
	attach.Means // whose other methods nobody calls

	lacking string
}

func (h halfAttached) Attached(i attach.Interface, d attach.Direction) (attach.Mechanism, bool, error) {
	return attach.TCX, i.Name != h.lacking || d != attach.Egress, nil
}

// TestLacking: an interface that lacks one program is named, one that does not exist is told apart from it, and why a configuration
// is not in force is said.
func TestLacking(t *testing.T) {
	p := &Published{Attacher: func() attach.Means { return halfAttached{lacking: "eth1"} }}
	p.Publish(&View{
		Interfaces: []Interface{{Interface: attach.Interface{Index: 2, Name: "eth0"}}, {Interface: attach.Interface{Index: 3, Name: "eth1"}}},
		Missing:    []string{"eth2"},
		Refused:    "line 3: no such key",
	})
	lines, err := p.Lacking()
	await.Must(t, err)
	want := []string{"not attached: eth1, eth2 (no such interface)", "a later configuration was refused: the one before stays: line 3: no such key"}
	await.Same(t, "lacking", want, lines)
}
