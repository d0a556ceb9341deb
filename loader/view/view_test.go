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

// TestUnattached: an interface that lacks one program is named, and one that does not exist is told apart from it.
func TestUnattached(t *testing.T) {
	p := &Published{Attacher: func() attach.Means { return halfAttached{lacking: "eth1"} }}
	p.Publish(&View{
		Interfaces: []Interface{{Interface: attach.Interface{Index: 2, Name: "eth0"}}, {Interface: attach.Interface{Index: 3, Name: "eth1"}}},
		Missing:    []string{"eth2"},
	})
	names, err := p.Unattached()
	await.Must(t, err)
	await.Same(t, "unattached", []string{"eth1", "eth2 (no such interface)"}, names)
}
