package show

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"replypath/cmd/replypath/output"
	"replypath/loader/explain"
	"replypath/loader/flows"
)

// explainTable writes an answer for people.
type explainTable struct{ *explain.Answer }

func (e *explainTable) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "packet\t%s %s > %s\n", output.OrDash(output.OrEmpty(e.Protocol)),
		output.Endpoint(e.Self, e.SelfPort), output.Endpoint(e.Peer, e.PeerPort))
	fmt.Fprintf(t, "kernel\t%s\n", kernelText(&e.Kernel))
	fmt.Fprintf(t, "replypath\t%s\n", wayText(&e.Replypath))
	fmt.Fprintf(t, "flow\t%s\n", flowText(e.Flow))
	fmt.Fprintf(t, "verdict\t%s\n", verdictText(&e.Explanation))
	fmt.Fprintf(t, "\t%s\n", e.Detail)
	if err := t.Flush(); err != nil || e.Matches <= 1 {
		return err
	}
	return e.writeOthers(w)
}

// writeOthers lists the flows that match as well.
func (e *explainTable) writeOthers(w io.Writer) error {
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
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
		header := []string{"PROTOCOL", "PEER", "SELF", "KERNEL", "REPLYPATH", "NEXT HOP", "VERDICT", "LEAVES BY"}
		if err := output.Table(w, header, rows); err != nil {
			return err
		}
	}
	if more := e.Matches - 1 - len(e.Others); more > 0 {
		_, err := fmt.Fprintf(w, "and %d more: give a port, or a larger --limit\n", more)
		return err
	}
	return nil
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
