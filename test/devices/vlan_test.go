// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"encoding/binary"
	"fmt"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestVLAN has one of the ways, or both, be a VLAN: on cables of their own, on
// one cable, and on the cable that is the other way itself.
func TestVLAN(t *testing.T) {
	onEth0 := vlanOn(func(s *site) *topology.Interface { return s.Production }, 5)
	eachWays(t, []ways{
		{"a vlan and its parent", ethernet, onEth0},
		{"replication is a vlan", ethernet, vlan(5)},
		{"production is a vlan", vlan(5), ethernet},
		{"two cables", vlan(5), vlan(6)},
	})
	if short.Run(t) {
		return
	}
	t.Run("the parent and its vlan", func(t *testing.T) {
		// The VLAN device is made after its parent, and has the default route.
		s := bareSite(t)
		s.Replication = ethernet(s, "eth1", replicationNet)
		s.Production = vlanOn(func(s *site) *topology.Interface { return s.Replication }, 5)(s, "eth0", productionNet)
		s.ready()
		s.serve()
		s.wantMended(t)
	})
}

// newTrunk builds a site with both ways on one cable, which it returns as well.
func newTrunk(t *testing.T) (*site, *topology.Interface) {
	t.Helper()
	s := bareSite(t)
	cable := trunk(s, "trunk")
	on := func(*site) *topology.Interface { return cable }
	s.Production = vlanOn(on, 5)(s, "eth0", productionNet)
	s.Replication = vlanOn(on, 6)(s, "eth1", replicationNet)
	s.ready()
	s.serve()
	return s, cable
}

// TestVLANTags has both ways be VLANs on one cable, and looks at the tags of what
// leaves by it: with the kernel's offloads and without.
func TestVLANTags(t *testing.T) {
	quick := short.Run(t)
	for name, change := range map[string]string{
		"offload": "", "no offload": "ethtool -K trunk txvlan off rxvlan off",
	} {
		if quick && change != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s, cable := newTrunk(t)
			host.Shell(t, s.Server, change)
			traffic.EachQuestion(t, "without replypath", s.wantLost)
			product.On(t, s.Server).Start()
			tags := make(map[string]int)
			traffic.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
				s.wantTags(t, cable, f, kind, tags)
			})
			t.Logf("frames of answers on the cable, by VLAN: %v", tags)
		})
	}
}

// wantTags wants the answers of each address with the tag of its VLAN, and counts the tags.
func (s *site) wantTags(t *testing.T, cable *topology.Interface, f topology.Family, kind traffic.Kind, tags map[string]int) {
	for by, id := range map[*topology.Interface]uint16{s.Production: 5, s.Replication: 6} {
		c := s.ask(t, kind, by.Address(f))
		seen := wire.Capture(t, cable.Peer())
		s.wantAnswers(t, c, by)
		answers := seen.Frames(topology.All(c.Answers(), topology.Going(topology.Received)))
		if len(answers) == 0 {
			t.Errorf("%s: no answer on the cable", c)
		}
		for _, frame := range answers {
			got := tag(frame)
			tags[got]++
			await.Same(t, frame.String()+": vlan", fmt.Sprint(id), got)
		}
	}
}

const noTag = "none"

// tag is the VLAN of a frame with exactly one tag (IEEE 802.1Q), or says what there is instead.
func tag(frame *topology.Frame) string {
	const tagged = 0x8100
	kind := func(offset int) uint16 { return binary.BigEndian.Uint16(frame.Data[offset:]) }
	if kind(12) != tagged {
		return noTag
	}
	if kind(16) == tagged {
		return "twice"
	}
	return fmt.Sprint(kind(14) & 0xfff)
}
