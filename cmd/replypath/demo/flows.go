package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"replypath/loader/flows"
)

// showFlows shows the flow table while the questions' sockets are open.
func (d *demo) showFlows(ctx context.Context, r *round) error {
	d.heading("The flows that B remembers: replypath flows (some columns)")
	output, err := d.call(ctx, "flows", "-o", "json")
	if err != nil {
		return err
	}
	var table []flows.Flow
	if err := json.Unmarshal(output, &table); err != nil {
		return fmt.Errorf("replypath flows: %w", err)
	}
	rows := [][]string{{"PROTOCOL", "PEER", "SELF", "INTERFACE", "NEXT HOP", "STATE", "CORRECTED"}}
	for _, f := range table {
		rows = append(rows, []string{
			f.Protocol, f.Peer, f.Self, orDash(f.Interface), orDash(f.NextHopMAC), f.State,
			strconv.FormatUint(f.CorrectedPackets, 10),
		})
	}
	d.table(rows)
	for _, q := range r.questions {
		d.require(slices.ContainsFunc(table, d.isFlowOf(q)), "replypath flows does not show %s to %s on eth1", q.name, q.target())
	}
	return nil
}

// isFlowOf tells a question's flow by the hosts; there is one for each kind.
func (d *demo) isFlowOf(q *question) func(flows.Flow) bool {
	return func(f flows.Flow) bool {
		return f.Protocol == q.protocol[q.family] && f.Peer == q.asker.Addr().String() && f.Self == q.asked.String() &&
			orDash(f.Interface) == d.net.B.Eth1.Name
	}
}

func orDash(text *string) string {
	if text == nil {
		return "-"
	}
	return *text
}
