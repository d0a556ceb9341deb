// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"replypath/cmd/replypath/demo/network"
)

// showReplies shows what became of a round's questions, of IPv4 in full and of IPv6 in a line, and wants all replies to
// have gone as is expected.
func (d *demo) showReplies(r *round) {
	for _, q := range r.questions {
		d.requireWay(r, q)
	}
	ipv4, ipv6 := r.questions[:len(kinds)], r.questions[len(kinds):]
	d.showAnswers(ipv4)
	wrong, right := r.eth0.replies(ipv4...), r.eth1.replies(ipv4...)
	if r.answered {
		d.line("Captured on the cable of eth1 (its MAC > that of %s), and %d replies on that of eth0:",
			r.eth1.Peer.Address(network.IPv4), len(wrong))
		d.showFrames(right)
	} else {
		d.line("B did reply, but by its default route. Captured on the cable of eth0 (its MAC > that of %s):",
			r.eth0.Peer.Address(network.IPv4))
		d.showFrames(wrong)
	}
	d.showCompact(r, ipv6)
}

// requireWay wants a question to have been answered or not, and all its replies to have left by one interface.
func (d *demo) requireWay(r *round, q *question) {
	by, other, not := r.eth0, r.eth1, ""
	if r.answered {
		by, other, not = r.eth1, r.eth0, "not "
	}
	what := fmt.Sprintf("%s: %s", r.name, q)
	d.require((q.err == nil) == r.answered, "%s was %sanswered", what, not)
	d.require(allFromTo(by.Interface, by.replies(q)), "%s: not all replies left by %s to its gateway", what, by.Name)
	d.require(len(other.replies(q)) == 0, "%s: a reply left by %s", what, other.Name)
}

// allFromTo tells whether there are frames, all from an interface to the other end of its cable, which is the gateway.
func allFromTo(i *network.Interface, frames []*network.Frame) bool {
	for _, f := range frames {
		if !bytes.Equal(f.SourceMAC, i.MAC) || !bytes.Equal(f.DestinationMAC, i.Peer.MAC) {
			return false
		}
	}
	return len(frames) > 0
}

// showAnswers shows what became of questions, one line each.
func (d *demo) showAnswers(questions []*question) {
	for _, q := range questions {
		became, precision := "answered", 10*time.Microsecond
		if q.err != nil {
			became, precision = "no answer", 100*time.Millisecond
		}
		d.told(q.err == nil, "%-4s  %-16s  %s in %s", q.name, endpoint(q.asked), became, q.took.Round(precision))
	}
}

// showCompact shows what became of the questions in a family, and by which
// interface the replies left, all in one line.
func (d *demo) showCompact(r *round, questions []*question) {
	marks := make([]string, len(questions))
	for i, q := range questions {
		marks[i] = d.mark(q.err == nil) + " " + q.name
	}
	ways := make([]string, 2)
	for i, w := range []way{r.eth0, r.eth1} {
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
func (d *demo) showFrames(frames []*network.Frame) {
	for _, f := range frames[:min(len(frames), mostFrames)] {
		content := "ICMP echo reply" // IPv6 is not shown frame by frame
		switch f.Protocol {
		case "tcp":
			content = "TCP [" + f.TCPFlags.String() + "]"
		case "udp":
			content = "UDP"
		}
		d.quote(fmt.Sprintf("%s > %s  %s > %s  %s", f.SourceMAC, f.DestinationMAC,
			endpoint(f.Source), endpoint(f.Destination), content))
	}
	if more := len(frames) - mostFrames; more > 0 {
		d.quote(fmt.Sprintf("and %d more", more))
	}
}
