// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"replypath/loader/attach"
	"replypath/test/topology"
)

// attached is what stands in one place of a hook.
type attached struct {
	link    link.ID
	program ebpf.ProgramID
}

// tcxHooks are those that there may be links at.
var tcxHooks = []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress}

// links returns the links of all interfaces, by interface, hook and place.
func (b *bed) links() map[string]attached {
	b.Helper()
	links := make(map[string]attached)
	b.inside(func() error {
		devices, err := b.host.Netlink().LinkList()
		if err != nil {
			return err
		}
		for _, device := range devices {
			for _, hook := range tcxHooks {
				found, err := link.QueryPrograms(link.QueryOptions{Target: device.Attrs().Index, Attach: hook})
				if err != nil {
					return err
				}
				for place, p := range found.Programs {
					id, _ := p.LinkID()
					links[fmt.Sprintf("%s %s %d", device.Attrs().Name, hook, place)] = attached{id, p.ID}
				}
			}
		}
		return nil
	})
	return links
}

// TestUpgradeUpdatesTheLinks: other programs get into the links that are there, there
// and back. A link that were made anew would leave a gap, or lose its place among those
// of others.
func TestUpgradeUpdatesTheLinks(t *testing.T) {
	if _, has := mechanisms[attach.TCX]; !has {
		t.Skip("the kernel has no tcx (Linux 6.6)")
	}
	for what, upgrade := range upgrades {
		t.Run(what, func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			b.start(nil).stop()
			before := b.links()
			for _, place := range []string{"eth0 TCXIngress 0", "eth0 TCXEgress 0", "eth1 TCXIngress 0", "eth1 TCXEgress 0"} {
				if before[place].link == 0 {
					t.Fatalf("no link at %s: %v", place, before)
				}
			}
			if upgrade.prepare != nil {
				upgrade.prepare(b)
			}
			changes := 0
			for _, options := range []func(*Options){upgrade.options, nil} {
				b.start(options).stop()
				after := b.links()
				changes += wantUpdated(t, before, after)
				before = after
				b.makeForeignPrograms()
			}
			pingB(t, s)
			t.Logf("%d links on eth0, eth1 and the fallback route's device, an upgrade and back: %d programs replaced, 0 links",
				len(before), changes)
		})
	}
}

// wantUpdated wants other programs in the same links, and counts them.
func wantUpdated(t *testing.T, before, after map[string]attached) (changes int) {
	t.Helper()
	if len(after) != len(before) {
		t.Errorf("%d links, before %d", len(after), len(before))
	}
	for place, was := range before {
		now := after[place]
		if now.link != was.link {
			t.Errorf("%s: link %d, before %d", place, now.link, was.link)
		}
		if now.program == was.program {
			t.Errorf("%s: still program %d", place, now.program)
			continue
		}
		changes++
	}
	return changes
}
