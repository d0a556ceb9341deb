// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"hash/crc32"
	"net/netip"
	"testing"

	testhost "replypath/test/host"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// want is what a conversation and its answers have to be like.
type want = func(*testing.T, *traffic.Conversation, topology.Filter)

// asking is who asks for which address of a server.
type asking struct {
	client *topology.Interface
	of     func(topology.Family) netip.Addr
	seenAs func(topology.Family) netip.Addr // that address at the server, where another translates it
}

// each holds every kind of question, and its answers as the server sends them, against a want.
func (a asking) each(t *testing.T, families []topology.Family, name string, want want) {
	traffic.EachQuestionOf(t, families, name, a.asks(want))
}

func (a asking) asks(want want) func(*testing.T, topology.Family, traffic.Kind) {
	return func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c := traffic.NewConversation(t, kind, a.client, a.of(f))
		if a.seenAs == nil {
			want(t, c, c.Answers())
		} else {
			want(t, c, c.Behind(a.seenAs(f)).Answers())
		}
	}
}

// answered wants all answers, and every one of them by an exit.
func (a asking) answered(t *testing.T, name string, by exit) {
	a.each(t, traffic.Families, name, by.wantAnswers)
}

// lost is the control of answered: answers leave by an exit, and never come to who asked.
func (a asking) lost(t *testing.T, name string, by exit) {
	sampled(t, traffic.Families, name, a.asks(by.wantLost))
}

// sampled is harness.EachQuestionOf. With -short it runs one kind of question for each family, which the name
// decides: in a matrix every two of phase, family and kind still meet.
func sampled(t *testing.T, families []topology.Family, name string, run func(*testing.T, topology.Family, traffic.Kind)) {
	if !short.Run(t) {
		traffic.EachQuestionOf(t, families, name, run)
		return
	}
	first := int(crc32.ChecksumIEEE([]byte(t.Name()+name)) % 3)
	for i, f := range families {
		kind := traffic.Kinds[(first+i)%len(traffic.Kinds)]
		t.Run(name+"/"+f.String()+"/"+string(kind), func(t *testing.T) { run(t, f, kind) })
	}
}

// removeRules takes all policy rules away that somebody has added.
func removeRules(t *testing.T, host *topology.Host) {
	t.Helper()
	testhost.Shell(t, host, `
for family in -4 -6; do
	ip $family rule show | while read -r priority rule; do
		case $priority in 0: | 32766: | 32767:) ;; *) ip $family rule del priority ${priority%:} ;; esac
	done
done
`)
}
