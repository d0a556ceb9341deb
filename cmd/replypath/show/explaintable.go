// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"time"

	"replypath/cmd/replypath/output"
	"replypath/loader/discover/dump"
	"replypath/loader/explain"
	"replypath/loader/flows"
)

// showAnswer shows an answer for people.
func showAnswer(p *output.Page, a *explain.Answer) {
	p.Facts(
		[2]string{"packet", fmt.Sprintf("%s %s > %s", output.OrDash(output.OrEmpty(a.Protocol)),
			output.Endpoint(a.Self, a.SelfPort), output.Endpoint(a.Peer, a.PeerPort))},
		[2]string{"kernel", kernelText(&a.Kernel)},
		[2]string{"replypath", wayText(&a.Replypath)},
		[2]string{"flow", flowText(a.Flow)},
		[2]string{"verdict", verdictText(a.Verdict, a.Reason)},
		[2]string{"", a.Detail},
		[2]string{"seen", seenText(a.Seen)},
	)
	if len(a.Others) > 0 {
		p.Line("")
		output.AddTable(p, otherFields, a.Others)
	}
	if more := a.Matches - 1 - len(a.Others); more > 0 {
		if len(a.Others) == 0 {
			p.Line("")
		}
		p.Line("and %d more: give a port, or a larger --limit", more)
	}
}

// otherFields are those of flows that match as well. What the packet leaves by is one of two other columns.
var otherFields = []output.Field[explain.Explanation]{
	output.NewField("PROTOCOL", 1, func(e *explain.Explanation) string { return output.OrEmpty(e.Protocol) }),
	output.NewField("PEER", 0, func(e *explain.Explanation) string { return output.Endpoint(e.Peer, e.PeerPort) }),
	output.NewField("SELF", 0, func(e *explain.Explanation) string { return output.Endpoint(e.Self, e.SelfPort) }),
	output.NewField("KERNEL", 0, func(e *explain.Explanation) string { return output.OrEmpty(e.Kernel.Interface) }),
	output.NewField("REPLYPATH", 0, func(e *explain.Explanation) string { return output.OrEmpty(e.Replypath.Interface) }),
	output.NewField("NEXT HOP", 3, func(e *explain.Explanation) string { return output.OrEmpty(e.Replypath.NextHopMAC) }),
	output.NewField("VERDICT", 0, func(e *explain.Explanation) string { return verdictText(e.Verdict, e.Reason) }),
	output.NewField("LEAVES BY", 2, func(e *explain.Explanation) string { return output.OrEmpty(e.LeavesBy) }),
}

// verdictText is a verdict with its reason.
func verdictText(verdict string, reason *string) string {
	if reason == nil {
		return verdict
	}
	return verdict + " (" + *reason + ")"
}

func kernelText(k *explain.Kernel) string {
	if k.Interface == nil {
		return "no route: " + output.OrEmpty(k.Error)
	}
	text := *k.Interface + nextHopText(k.Gateway, k.NextHopMAC)
	if k.Table != nil {
		text += ", table " + dump.TableName(*k.Table)
	}
	return text
}

func wayText(w *explain.Way) string {
	if w.Interface == nil {
		return "-"
	}
	return *w.Interface + nextHopText(w.Gateway, w.NextHopMAC)
}

func nextHopText(gateway, mac *string) string {
	text := ""
	if gateway != nil {
		text = ", gateway " + *gateway
	}
	if mac != nil {
		text += ", MAC " + *mac
	}
	return text
}

// seenText is when a packet was last seen leaving as the verdict says.
func seenText(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return "a packet left so at " + at.Local().Format(time.RFC3339)
}

// flowText is the entry that decides.
func flowText(f *flows.Flow) string {
	if f == nil {
		return "-"
	}
	return fmt.Sprintf("%s, age %s, idle %s, %d packets corrected",
		stateOf(f), output.Duration(f.AgeSeconds), output.Duration(f.IdleSeconds), f.CorrectedPackets)
}
