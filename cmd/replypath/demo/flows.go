package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
)

// showFlows shows the flow table while the questions' sockets are open.
func showFlows(ctx context.Context, p *page, r *round) error {
	p.heading("The flows that B remembers: replypath flows (some columns)")
	text, err := call(ctx, r.network.B.Host, "flows", "-o", "json")
	if err != nil {
		return err
	}
	var table []flows.Flow
	if err := json.Unmarshal(text, &table); err != nil {
		return fmt.Errorf("replypath flows: %w", err)
	}
	rows := [][]string{{"PROTOCOL", "PEER", "SELF", "INTERFACE", "NEXT HOP", "STATE", "CORRECTED"}}
	for _, f := range table {
		rows = append(rows, []string{
			f.Protocol, f.Peer, f.Self,
			output.OrDash(output.OrEmpty(f.Interface)), output.OrDash(output.OrEmpty(f.NextHopMAC)), f.State,
			strconv.FormatUint(f.CorrectedPackets, 10),
		})
	}
	p.table(rows)
	for _, q := range r.questions {
		recorded := slices.ContainsFunc(table, func(f flows.Flow) bool { return isFlowOf(q, &f, r.network.B.Eth1.Name) })
		p.require(recorded, "replypath flows does not show %s to %s on eth1", q.name, q.target())
	}
	return nil
}

// isFlowOf tells a question's flow on an interface by the hosts; there is one for each kind.
func isFlowOf(q *question, f *flows.Flow, name string) bool {
	return f.Protocol == q.protocol[q.family] && f.Peer == q.asker.Addr().String() && f.Self == q.asked.String() &&
		output.OrEmpty(f.Interface) == name
}
