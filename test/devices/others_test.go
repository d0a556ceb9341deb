// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// hook is one of the two of an interface, as TCX and as cls_bpf know it.
type hook struct {
	name   string
	tcx    ebpf.AttachType
	parent uint32
}

var hooks = []hook{
	{"ingress", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
	{"egress", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
}

// place is where somebody else's program is put in a hook.
type place struct {
	name   string
	attach func(*watcher, *topology.Interface, hook)
}

// ends are the places in a hook of TCX, before or behind whatever is there.
var ends = []place{
	{"head", func(w *watcher, i *topology.Interface, h hook) { w.byTCX(i, h.tcx, link.Head()) }},
	{"tail", func(w *watcher, i *topology.Interface, h hook) { w.byTCX(i, h.tcx, link.Tail()) }},
}

// atPriorities are places among the filters of a clsact qdisc: what everybody
// takes, what the kernel hands out, next to ours, at ours, and the last one.
var atPriorities = func() []place {
	var all []place
	for _, priority := range []uint16{1, 5, 6, 49152, 65519, 65520, 65535} {
		all = append(all, place{strconv.Itoa(int(priority)), func(w *watcher, i *topology.Interface, h hook) {
			addClsact(w.t, i)
			w.byFilter(i, h.parent, priority)
		}})
	}
	return all
}()

// addClsact adds a clsact qdisc unless there is one.
func addClsact(t testing.TB, i *topology.Interface) {
	t.Helper()
	qdiscs, err := i.Host.Netlink().QdiscList(await.Must1[netlink.Link](t)(i.Link()))
	await.Must(t, err)
	if slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" }) {
		return
	}
	await.Must(t, i.Host.Netlink().QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: i.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}))
}

// watchers are somebody else's programs at some places of every hook of a server: "eth1 egress head", and so on.
type watchers map[string]*watcher

func addWatchers(t *testing.T, server *topology.Server, places []place) watchers {
	t.Helper()
	all := make(watchers)
	for _, i := range []*topology.Interface{server.Eth0, server.Eth1} {
		for _, h := range hooks {
			for _, p := range places {
				w := newWatcher(t)
				p.attach(w, i, h)
				all[i.Name+" "+h.name+" "+p.name] = w
			}
		}
	}
	return all
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
		c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, at.Address(f))
		for range questions {
			await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), watchedSize))
		}
	}
}

// beside is a way in which others share the hooks with us.
type beside struct {
	name, mechanism string
	oursFirst       bool
	places          []place
	// before are the places that run before our egress program. TCX programs run before all filters, a filter that was
	// added later before others of its priority.
	before []string
}

var besides = []beside{
	{"tcx beside tcx, ours first", "tcx", true, ends, []string{"head"}},
	{"tcx beside tcx, theirs first", "tcx", false, ends, []string{"head", "tail"}},
	{"tcx beside filters, ours first", "tcx", true, atPriorities, nil},
	{"tcx beside filters, theirs first", "tcx", false, atPriorities, nil},
	{"clsact beside tcx, ours first", "clsact", true, ends, []string{"head", "tail"}},
	{"clsact beside tcx, theirs first", "clsact", false, ends, []string{"head", "tail"}},
	{"clsact beside filters, ours first", "clsact", true, atPriorities,
		[]string{"1", "5", "6", "49152", "65519", "65520"}},
	{"clsact beside filters, theirs first", "clsact", false, atPriorities, []string{"1", "5", "6", "49152"}},
}

// TestOthers has other programs and filters on the same hooks, before ours, behind and at our priorities, in every
// combination of mechanisms. Each sees every frame of its interface once; what is moved away from eth0 is seen there
// only by who comes before us, as by nobody after a redirect.
func TestOthers(t *testing.T) {
	quick := short.Run(t)
	for n, b := range besides {
		if quick && n%4 != 0 && n%4 != 3 { // both mechanisms beside each, ours first and theirs in turn
			continue
		}
		t.Run(b.name, func(t *testing.T) { testOthers(t, b) })
	}
}

// need skips what one of the two has no room for in this kernel.
func (b beside) need(t *testing.T) {
	t.Helper()
	if strings.Contains(b.name, "tcx") {
		host.NeedTCX(t)
	}
}

// together starts the product and puts the others in place, in the right order.
func (b beside) together(t *testing.T, n *topology.TwoNIC, p *product.Product) watchers {
	t.Helper()
	if !b.oursFirst {
		all := addWatchers(t, n.Server, b.places)
		p.Start("--mechanism", b.mechanism)
		return all
	}
	p.Start("--mechanism", b.mechanism)
	return addWatchers(t, n.Server, b.places)
}

func testOthers(t *testing.T, b beside) {
	b.need(t)
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, Offloads: topology.WireExact})
	traffic.ServeNICs(t, n.Server.Eth0)
	p := product.On(t, n.Server.Host)
	all := b.together(t, n, p)
	frames := questions * len(n.Families())
	everywhere := func(hooks ...string) map[string]int {
		seen := make(map[string]int)
		for _, hook := range hooks {
			for _, place := range b.places {
				seen[hook+" "+place.name] = frames
			}
		}
		return seen
	}
	want := func(what string, at *topology.Interface, want map[string]int) {
		t.Helper()
		askWatched(t, n, at)
		await.Same(t, fmt.Sprintf("seen %s", what), want, all.seen())
	}
	moved := everywhere("eth1 ingress", "eth1 egress")
	for _, place := range b.before {
		moved["eth0 egress "+place] = frames
	}
	want("of answers that were moved", n.Server.Eth1, moved)
	want("of answers that were right", n.Server.Eth0, everywhere("eth0 ingress", "eth0 egress"))
	p.Expect(0, "detach", "--stop")
	want("after detach", n.Server.Eth1, everywhere("eth1 ingress", "eth0 egress"))
	t.Logf("%d programs and filters of others, each saw each of %d frames of its interface once", len(all), 3*frames)
}
