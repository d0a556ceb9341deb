// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover/dump"
	"replypath/loader/explain"
	"replypath/loader/finding"
	"replypath/loader/flows"
	"replypath/test/await"
	"replypath/test/topology"
)

// wantSenders wants these in the status, each as the end of its MAC and its way.
func (b *server) wantSenders(when, want string) {
	b.Helper()
	var words []string
	for _, s := range b.status().Senders {
		words = append(words, (*s.MAC)[len(*s.MAC)-2:]+" "+s.Way)
	}
	await.Same(b, when, want, strings.Join(words, ", "))
}

// teach enters what a handshake taught of a sender by an interface.
func (b *server) teach(i *topology.Interface, mac [6]uint8, self [16]uint8, gateway uint16, way bpf.DatapathFlowFlags, change func(*bpf.DatapathLearnt)) {
	b.Helper()
	var times uint32
	b.inside(func() (err error) {
		times, err = dump.TimesDown(i.Index)
		return err
	})
	now := read(b, func() (datapath.Clock, error) { return datapath.ReadClock(b.dir) }).Now()
	value := bpf.DatapathLearnt{Since: now, Heard: now - uint32(mac[5]), Way: uint16(way), Downs: uint16(times)}
	if change != nil {
		change(&value)
	}
	await.Must(b.T, b.maps().Ways.Put(bpf.DatapathSender{Mac: mac, Interface: b.idsOf(i.Name)[0], Self: self, Gateway: gateway}, value))
}

// TestSenders: what handshakes taught outlives restarts, other sizes and layouts. What holds no more is not told of. It is
// forgotten with flows, with the link, and with the id of its interface.
func TestSenders(t *testing.T) {
	const lastHop, direct = bpf.DatapathFlowFlagsFLOW_LAST_HOP, bpf.DatapathFlowFlagsFLOW_AS_ROUTED
	b := newAnsweringServer(t)
	r := b.start()
	b.ping()
	b.awaitKnown(b.eth0, b.eth0.Gateway(topology.IPv4))
	router, gateways := b.eth0.Peer().MAC, map[*topology.Interface]uint16{}
	for _, g := range b.journal().Gateways {
		if g.Address == b.eth0.Gateway(topology.IPv4).String() {
			gateways[b.eth0] = g.ID
		}
	}
	teach := func(i *topology.Interface, end uint8, way bpf.DatapathFlowFlags, change func(*bpf.DatapathLearnt)) {
		t.Helper()
		b.teach(i, [6]uint8{2, 5: end}, i.Address(topology.IPv4).As16(), gateways[i], way, change)
	}
	teach(b.eth1, 1, 0, nil)
	teach(b.eth1, 2, lastHop, nil)
	teach(b.eth0, 3, direct, func(l *bpf.DatapathLearnt) { l.Gateway = [6]uint8(router) })
	teach(b.eth0, 4, lastHop, func(l *bpf.DatapathLearnt) { l.Gateway[5] = 9 })
	teach(b.eth0, 5, lastHop, func(l *bpf.DatapathLearnt) { l.Downs += 7 })
	teach(b.eth0, 6, lastHop, func(l *bpf.DatapathLearnt) { l.Heard -= 86400 * 1000 / 16 })
	const all = "02 last-hop, 03 direct-return, 01 rule"
	b.wantSenders("at first", all)
	r.stop()
	r = b.start(larger)
	b.wantSenders("in larger tables", all)
	r.stop()
	b.setForeignLayout()
	r = b.start()
	b.opened = nil
	b.wantSenders("in another layout", all)
	await.Must(t, r.reload(largerConfig))
	b.wantSenders("after a reload", all)
	await.Must(t, r.reload(func(c *config.Config) {
		c.Interfaces = []config.Interface{{Name: "eth0", NextHop: config.NextHopAuto, Gateways: []netip.Addr{b.eth0.Gateway(topology.IPv4)}}, {Name: "eth1", NextHop: config.NextHopAuto}}
	}))
	b.wantSenders("where gateways are configured", "02 last-hop, 01 rule")
	await.Must(t, r.reload())
	b.flush(flows.Filter{Peer: netip.MustParsePrefix("192.0.2.0/24")}, 0)
	b.wantSenders("others' flows are flushed", all)
	b.flush(flows.Filter{Interface: "eth1"}, 2)
	b.wantSenders("those of eth1 are flushed", "03 direct-return")
	b.ip("link set eth0 down\nlink set eth0 up")
	b.wantSenders("the link was down", "")
	teach(b.eth1, 7, lastHop, nil)
	b.flush(flows.Filter{}, 5)
	b.wantSenders("all are flushed", "")
	teach(b.eth1, 8, lastHop, nil)
	await.Must(t, r.forgetInterface(b.idsOf("eth1")[0]))
	b.wantSenders("the id is given anew", "")
	await.Same(t, "entries that are left", 0, len(entries[bpf.DatapathSender, bpf.DatapathLearnt](b, b.maps().Ways)))
}

func (b *server) flush(filter flows.Filter, senders int) {
	b.Helper()
	b.inside(func() error {
		table, err := flows.Open(b.dir)
		if err != nil {
			return err
		}
		flushed, err := table.Flush(filter)
		if flushed.Senders != senders {
			b.Errorf("%+v, not %d senders", flushed, senders)
		}
		return errors.Join(err, table.Close())
	})
}

// TestLearntFlows: explain and flows tell of a way that handshakes taught, with a flow and without.
func TestLearntFlows(t *testing.T) {
	b := newAnsweringServer(t)
	b.start()
	b.ping()
	for flag, way := range map[bpf.DatapathFlowFlags]string{
		bpf.DatapathFlowFlagsFLOW_LAST_HOP: flows.WayLastHop, bpf.DatapathFlowFlagsFLOW_AS_ROUTED: flows.WayDirectReturn,
	} {
		seen := 0
		table := bpf.FlowTables(&b.maps().DatapathMaps)[bpf.DatapathTableTABLE_CONNECTIONLESS]
		await.Must(t, table.Each(func(digest uint64, f *bpf.DatapathFlow) bool {
			f.Flags = f.Flags&^uint16(bpf.DatapathFlowFlagsFLOW_WAY) | uint16(flag)
			await.Must(t, table.Put(digest, f))
			b.teach(b.eth1, f.Mac, f.Tuple.Self, f.Gateway, flag, func(l *bpf.DatapathLearnt) { l.Proven = 1 })
			b.wantExplained(explain.About(&f.Tuple), way, f.Mac)
			q := explain.About(&f.Tuple)
			q.Interface, q.Peer = "eth1", netip.AddrPortFrom(q.Peer.Addr().Next(), 1)
			b.wantExplained(q, way, f.Mac)
			seen++
			return true
		}))
		for _, f := range b.wantFlows("that were taught", 2) {
			if f.Verdict == nil || *f.Verdict != way || (f.NextHopMAC == nil) != (way == flows.WayDirectReturn) {
				t.Errorf("%s: %+v", way, f)
			}
		}
		await.Same(t, "flows", 2, seen)
	}
}

// wantExplained wants a verdict about what arrives by eth1, and the way that it means.
func (b *server) wantExplained(q explain.Question, verdict string, mac [6]uint8) {
	b.Helper()
	e := read(b, func() (*explain.Answer, error) { return explain.Ask(b.dir, q) })
	wantBy, wantMAC, tried := "eth1", net.HardwareAddr(mac[:]).String(), "directly"
	if verdict == explain.DirectReturn {
		wantBy, wantMAC, tried = "eth0", b.eth0.Peer().MAC.String(), "by eth1"
	}
	by, next := finding.OrEmpty(e.Replypath.Interface), finding.OrEmpty(e.Replypath.NextHopMAC)
	if e.Verdict != verdict || by != wantBy || next != wantMAC || finding.OrEmpty(e.LeavesBy) != wantBy || !strings.Contains(e.Detail, ", as "+tried+" none was completed, learnt at ") {
		b.Errorf("%s: %s by %s, %s: %s", verdict, e.Verdict, by, next, e.Detail)
	}
}
