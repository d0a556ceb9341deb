package devices

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"replypath/test/harness"
	"replypath/test/topology"
)

// watchers are two of somebody else's programs on every hook of a server, the
// first and the last of it: "eth1 egress first", and so on.
type watchers map[string]*watcher

// hooks of an interface, as TCX and as cls_bpf know them.
var hooks = []struct {
	name   string
	tcx    ebpf.AttachType
	parent uint32
}{
	{"ingress", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
	{"egress", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
}

// Priorities of the first and of the last filter: the first is what everybody
// takes.
const (
	firstPriority = 1
	lastPriority  = 65530
)

// addWatchers attaches watchers by TCX, or by filters.
func addWatchers(t *testing.T, server *topology.Server, byTCX bool) watchers {
	t.Helper()
	all := make(watchers)
	for _, i := range []*topology.Interface{server.Eth0, server.Eth1} {
		if !byTCX {
			addClsact(t, i)
		}
		for _, hook := range hooks {
			name := i.Name + " " + hook.name + " "
			first, last := newWatcher(t), newWatcher(t)
			all[name+"first"], all[name+"last"] = first, last
			if byTCX {
				first.byTCX(i, hook.tcx, link.Head())
				last.byTCX(i, hook.tcx, link.Tail())
			} else {
				first.byFilter(i, hook.parent, firstPriority)
				last.byFilter(i, hook.parent, lastPriority)
			}
		}
	}
	return all
}

// addClsact adds a clsact qdisc unless there is one.
func addClsact(t *testing.T, i *topology.Interface) {
	t.Helper()
	qdiscs, err := i.Host.Netlink().QdiscList(harness.Must1[netlink.Link](t)(i.Link()))
	harness.Must(t, err)
	if slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" }) {
		return
	}
	harness.Must(t, i.Host.Netlink().QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: i.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}))
}

// seen returns how many frames each of them saw since the last call.
func (all watchers) seen() map[string]int {
	seen := make(map[string]int)
	for name, w := range all {
		if n := w.seen(); n > 0 {
			seen[name] = n
		}
	}
	return seen
}

// questions is how many are asked for the watchers to see.
const questions = 10

// askWatched asks by UDP with frames that the watchers know.
func askWatched(t *testing.T, n *topology.TwoNIC, at *topology.Interface) {
	t.Helper()
	for _, f := range n.Families() {
		c := harness.NewConversation(t, harness.UDP, n.ClientEth0, at.Address(f))
		for range questions {
			harness.Must(t, c.AskFor(harness.Within(t, harness.AnswerTime), watchedSize))
		}
	}
}

// TestOthers has other programs and filters on the same hooks, before ours and
// after, in every combination of mechanisms. Each sees every frame of its
// interface once; what is moved away from eth0 is seen there only by who comes
// before us, as by nobody after a redirect.
func TestOthers(t *testing.T) {
	for _, mechanism := range []string{"tcx", "clsact"} {
		for _, byTCX := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, others by tcx: %t", mechanism, byTCX), func(t *testing.T) {
				testOthers(t, mechanism, byTCX)
			})
		}
	}
}

func testOthers(t *testing.T, mechanism string, byTCX bool) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, Offloads: wireExact})
	for _, f := range n.Families() {
		harness.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
	}
	p := harness.On(t, n.Server.Host)
	var all watchers
	if mechanism == "tcx" {
		p.Start()
		all = addWatchers(t, n.Server, byTCX)
	} else {
		// Ours joins a qdisc that is there.
		all = addWatchers(t, n.Server, byTCX)
		p.Start("--mechanism", mechanism)
	}
	frames := questions * len(n.Families())
	moved := map[string]int{
		"eth1 ingress first": frames, "eth1 ingress last": frames,
		"eth1 egress first": frames, "eth1 egress last": frames,
	}
	for _, where := range beforeOurs(mechanism, byTCX) {
		moved["eth0 egress "+where] = frames
	}
	askWatched(t, n, n.Server.Eth1)
	if diff := cmp.Diff(moved, all.seen()); diff != "" {
		t.Errorf("seen of answers that were moved (-want +got):\n%s", diff)
	}
	askWatched(t, n, n.Server.Eth0)
	right := map[string]int{
		"eth0 ingress first": frames, "eth0 ingress last": frames,
		"eth0 egress first": frames, "eth0 egress last": frames,
	}
	if diff := cmp.Diff(right, all.seen()); diff != "" {
		t.Errorf("seen of answers that were right (-want +got):\n%s", diff)
	}
	p.Expect(0, "detach", "--stop")
	askWatched(t, n, n.Server.Eth1)
	asRouted := maps.Clone(right)
	for _, where := range []string{"first", "last"} {
		delete(asRouted, "eth0 ingress "+where)
		asRouted["eth1 ingress "+where] = frames
	}
	if diff := cmp.Diff(asRouted, all.seen()); diff != "" {
		t.Errorf("seen after detach (-want +got):\n%s", diff)
	}
}

// beforeOurs returns which of the others run before our egress program. TCX
// programs run before all filters.
func beforeOurs(mechanism string, byTCX bool) []string {
	switch {
	case mechanism == "tcx" && !byTCX:
		return nil
	case mechanism == "clsact" && byTCX:
		return []string{"first", "last"}
	default:
		return []string{"first"}
	}
}
