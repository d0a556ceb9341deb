package loader

import (
	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/flows"
)

// flowTable is how full a flow table is.
type flowTable struct {
	id       bpf.DatapathTable
	name     string // as the metrics name it
	flows    uint64 // that are not idle
	capacity uint64
}

// countFlows looks through the flow tables.
func countFlows(maps *bpf.DatapathMaps, clock datapath.Clock) ([]flowTable, error) {
	var tables []flowTable
	for _, t := range []struct {
		id          bpf.DatapathTable
		name, state string
		table       *ebpf.Map
	}{
		{bpf.DatapathTableTABLE_HALF_OPEN, bpf.DatapathMapHalfOpen, flows.StateHalfOpen, maps.HalfOpen},
		{bpf.DatapathTableTABLE_ESTABLISHED, bpf.DatapathMapEstablished, flows.StateEstablished, maps.Established},
		{bpf.DatapathTableTABLE_CONNECTIONLESS, bpf.DatapathMapConnectionless, flows.StateConnectionless, maps.Connectionless},
	} {
		count, err := flows.Count(t.table, t.state, clock)
		if err != nil {
			return nil, err
		}
		tables = append(tables, flowTable{t.id, t.name, uint64(count), uint64(datapath.Capacity(t.table))})
	}
	return tables, nil
}
