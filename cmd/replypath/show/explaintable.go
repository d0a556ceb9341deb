package show

import (
	"fmt"
	"strconv"

	"replypath/cmd/replypath/output"
	"replypath/loader/explain"
	"replypath/loader/flows"
)

// explainTable shows an answer for people.
type explainTable struct{ *explain.Answer }

func (e *explainTable) show(p *output.Page) {
	p.Facts(
		[2]string{"packet", fmt.Sprintf("%s %s > %s", output.OrDash(output.OrEmpty(e.Protocol)),
			output.Endpoint(e.Self, e.SelfPort), output.Endpoint(e.Peer, e.PeerPort))},
		[2]string{"kernel", kernelText(&e.Kernel)},
		[2]string{"replypath", wayText(&e.Replypath)},
		[2]string{"flow", flowText(e.Flow)},
		[2]string{"verdict", verdictText(&e.Explanation)},
		[2]string{"", e.Detail},
	)
	if e.Matches > 1 {
		e.showOthers(p)
	}
}

// showOthers lists the flows that match as well.
func (e *explainTable) showOthers(p *output.Page) {
	p.Line("")
	rows := make([][]string, len(e.Others))
	for i := range e.Others {
		o := &e.Others[i]
		rows[i] = []string{
			output.OrEmpty(o.Protocol), output.Endpoint(o.Peer, o.PeerPort), output.Endpoint(o.Self, o.SelfPort),
			output.OrEmpty(o.Kernel.Interface), output.OrEmpty(o.Replypath.Interface), output.OrEmpty(o.Replypath.NextHopMAC),
			verdictText(o), output.OrEmpty(o.LeavesBy),
		}
	}
	if len(rows) > 0 {
		p.Table([]string{"PROTOCOL", "PEER", "SELF", "KERNEL", "REPLYPATH", "NEXT HOP", "VERDICT", "LEAVES BY"}, rows)
	}
	if more := e.Matches - 1 - len(e.Others); more > 0 {
		p.Line("and %d more: give a port, or a larger --limit", more)
	}
}

func verdictText(e *explain.Explanation) string { return verdictWith(e.Verdict, e.Reason) }

// verdictWith is a verdict with its reason.
func verdictWith(verdict string, reason *string) string {
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
		text += ", table " + strconv.Itoa(*k.Table)
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

// flowText is the entry that decides.
func flowText(f *flows.Flow) string {
	if f == nil {
		return "-"
	}
	return fmt.Sprintf("%s, age %s, idle %s, %d packets corrected",
		f.State, output.Duration(f.AgeSeconds), output.Duration(f.IdleSeconds), f.CorrectedPackets)
}
