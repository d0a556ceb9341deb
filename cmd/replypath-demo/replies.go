// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"replypath/test/topology"
)

// showReplies shows what became of a round's questions, of IPv4 in full and of IPv6 in a line, and wants all replies to
// have gone as is expected.
func (d *demo) showReplies(r *round) {
	by, other := d.eth0, d.eth1
	if r.answered {
		by, other = d.eth1, d.eth0
	}
	for _, q := range r.questions {
		d.requireWay(r, q, by, other)
	}
	ipv4, ipv6 := r.questions[:len(kinds)], r.questions[len(kinds):]
	d.showAnswers(ipv4)
	gateway := by.Gateway(topology.IPv4)
	if r.answered {
		d.line("Captured on the cable of eth1 (its MAC > that of %s), and %d replies on that of eth0:", gateway, len(other.replies(ipv4...)))
	} else {
		d.line("B did reply, but by its default route. Captured on the cable of eth0 (its MAC > that of %s):", gateway)
	}
	d.showFrames(by.replies(ipv4...))
	d.showCompact(ipv6)
}

// requireWay wants a question to have been answered or not, and all its replies to have left by one interface, to the
// gateway at the other end of its cable.
func (d *demo) requireWay(r *round, q *question, by, other way) {
	what, not := fmt.Sprintf("%s: %s", r.name, q), ""
	if r.answered {
		not = "not "
	}
	d.require((q.err == nil) == r.answered, "%s was %sanswered", what, not)
	addressed := topology.All(q.isReply, topology.FromMAC(by.MAC), topology.ToMAC(by.Peer().MAC))
	n := by.capture.Count(q.isReply)
	d.require(n > 0 && by.capture.Count(addressed) == n, "%s: not all replies left by %s to its gateway", what, by.Name)
	d.require(other.capture.Count(q.isReply) == 0, "%s: a reply left by %s", what, other.Name)
}

// showAnswers shows what became of questions, one line each.
func (d *demo) showAnswers(questions []*question) {
	for _, q := range questions {
		became, precision := "answered", 10*time.Microsecond
		if q.err != nil {
			became, precision = "no answer", 100*time.Millisecond
		}
		d.told(q.err == nil, "%-4s  %-16s  %s in %s", q.kind, endpoint(q.asked), became, q.took.Round(precision))
	}
}

// showCompact shows what became of questions, and by which interface the replies left, all in one line.
func (d *demo) showCompact(questions []*question) {
	marks := make([]string, len(questions))
	for i, q := range questions {
		marks[i] = d.mark(q.err == nil) + " " + q.kind
	}
	ways := make([]string, 2)
	for i, w := range []way{d.eth0, d.eth1} {
		ways[i] = "none by " + w.Name
		if replies := w.replies(questions...); len(replies) > 0 {
			ways[i] = fmt.Sprintf("%d replies by %s (%s > %s)", len(replies), w.Name, replies[0].SourceMAC, replies[0].DestinationMAC)
		}
	}
	d.line("%s  %s: %s", strings.Join(marks, " "), questions[0].asked.Addr(), strings.Join(ways, ", "))
}

// mostFrames is how many of a round's frames are shown.
const mostFrames = 6

// showFrames shows frames in a line each, as tcpdump -e has them.
func (d *demo) showFrames(frames []*topology.Frame) {
	for _, f := range frames[:min(len(frames), mostFrames)] {
		content := "ICMP echo reply" // IPv6 is not shown frame by frame
		switch {
		case topology.TCP(f):
			content = "TCP [" + f.TCPFlags.String() + "]"
		case topology.UDP(f):
			content = "UDP"
		}
		d.quote(fmt.Sprintf("%s > %s  %s > %s  %s", f.SourceMAC, f.DestinationMAC,
			endpoint(netip.AddrPortFrom(f.Source, f.SourcePort)),
			endpoint(netip.AddrPortFrom(f.Destination, f.DestinationPort)), content))
	}
	if more := len(frames) - mostFrames; more > 0 {
		d.quote(fmt.Sprintf("and %d more", more))
	}
}
