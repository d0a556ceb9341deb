// SPDX-License-Identifier: Apache-2.0

package top

import (
	"time"

	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/flows"
	"replypath/loader/status"
)

// Monitor looks at a datapath again and again. It is not safe for concurrent use.
type Monitor struct {
	dir    string
	meter  flows.Meter
	at     time.Time                  // of the last look; zero before the first
	before map[counters.Series]uint64 // what had been counted
}

// New returns one of what is pinned in a directory. Each look is to show so many flows, the first by an order.
func New(pinDir string, order flows.Order, limit int) *Monitor {
	return &Monitor{dir: pinDir, meter: flows.Meter{Order: order, Limit: limit}}
}

// Look tells what happened since the look before, in the network namespace of the calling thread, which has to be the one that
// the datapath works for. The error matches pins.ErrNone where nothing is pinned.
func (m *Monitor) Look() (*Look, error) {
	maps, err := datapath.OpenMaps(m.dir) // the counters of an earlier datapath go on in them
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	at := time.Now()
	traffic, err := status.ReadTraffic(m.dir, maps)
	if err != nil {
		return nil, err
	}
	tables, busiest, err := m.meter.Read(m.dir, maps)
	if err != nil {
		return nil, err
	}
	look := &Look{Time: at, FlowTables: tables, Flows: []Flow{}}
	if !m.at.IsZero() {
		look.Seconds = at.Sub(m.at).Seconds()
	}
	look.setTraffic(traffic)
	look.setRates(m.before, traffic.Counted)
	for _, busy := range busiest {
		look.Flows = append(look.Flows, Flow{busy.Flow, look.rate(0, busy.Corrected)})
	}
	m.at, m.before = at, traffic.Counted
	return look, nil
}
