// SPDX-License-Identifier: Apache-2.0

package top

import (
	"time"

	"replypath/loader/datapath"
	"replypath/loader/flows"
	"replypath/loader/status"
)

// Monitor looks at a datapath again and again. It is not safe for concurrent use.
type Monitor struct {
	dir     string
	current *datapath.Current
	meter   flows.Meter
	at      time.Time // of the last look; zero before the first
	before  counts
}

// Open opens the datapath that is pinned in a directory, in the network namespace
// of the calling thread, which has to be the one that it works for. Each look is
// to show so many flows, the first by an order. The error matches pins.ErrNone
// where nothing is pinned.
func Open(pinDir string, order flows.Order, limit int) (*Monitor, error) {
	current, err := datapath.OpenCurrent(pinDir)
	if err != nil {
		return nil, err
	}
	return &Monitor{dir: pinDir, current: current, meter: flows.Meter{Order: order, Limit: limit}}, nil
}

// Close closes what is open; it may be called twice.
func (m *Monitor) Close() error { return m.current.Close() }

// Look tells what happened since the look before. The error matches
// pins.ErrNone once the datapath was detached.
func (m *Monitor) Look() (*Look, error) {
	maps, err := m.current.Maps() // the counters of an earlier datapath go on in them
	if err != nil {
		return nil, err
	}
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
	now := newCounts(traffic)
	look.setTraffic(traffic)
	look.setRates(m.before, now)
	for _, busy := range busiest {
		look.Flows = append(look.Flows, Flow{busy.Flow, look.rate(0, busy.Corrected)})
	}
	m.at, m.before = at, now
	return look, nil
}
