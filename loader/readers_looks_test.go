// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/doctor"
	"replypath/loader/flows"
	"replypath/loader/status"
	"replypath/test/harness"
)

// What `replypath top`, `flows --follow` and `doctor` read.

// monitor looks again and again, as `replypath top` does, and goes on with the datapath that
// takes the place of the one before.
type monitor struct {
	*bed
	current *datapath.Current // nil before the first look, and where there was none
	meter   flows.Meter
}

// newMonitor returns one that is closed when the test ends.
func newMonitor(b *bed) *monitor {
	m := &monitor{bed: b}
	b.Cleanup(func() {
		if m.current != nil {
			harness.Must(b.T, m.current.Close())
		}
	})
	return m
}

func (m *monitor) look() (traffic *status.Traffic, measure *flows.Measure, err error) {
	if m.current == nil {
		if m.current, err = datapath.OpenCurrent(m.dir); err != nil {
			m.current = nil
			return nil, nil, err
		}
	}
	maps, err := m.current.Maps()
	if err != nil {
		return nil, nil, err
	}
	if traffic, err = status.ReadTraffic(m.dir, maps); err != nil {
		return nil, nil, err
	}
	measure, err = m.meter.Read(m.dir, maps, 1)
	return traffic, measure, err
}

// looks wants both interfaces, and tables of one datapath with all flows.
func (w *whole) looks(m *monitor) reader {
	return func() error {
		since := w.switches.Load()
		traffic, measure, err := m.look()
		if err != nil {
			return fmt.Errorf("look: %w", err)
		}
		errs := []error{w.isMode(traffic.Mode, since)}
		if len(traffic.Interfaces) != 2 || slices.ContainsFunc(traffic.Interfaces, func(i status.Interface) bool { return !i.Attached }) {
			errs = append(errs, fmt.Errorf("interfaces in a look: %+v", traffic.Interfaces))
		}
		var count, capacity uint64
		for _, t := range measure.Tables {
			count, capacity = count+t.Flows, capacity+t.Capacity
		}
		if int(count) < len(w.kept) || !slices.Contains(w.capacities, int(capacity)) || len(measure.Busiest[flows.ByCorrected]) == 0 {
			errs = append(errs, fmt.Errorf("flows in a look: %+v, the busiest %+v", measure.Tables, measure.Busiest))
		}
		return errors.Join(errs...)
	}
}

// How long, and how often, the tables are looked at by who follows them.
const (
	followedFor   = 100 * time.Millisecond
	followedEvery = 10 * time.Millisecond
)

// followed follows the tables for a while.
func (b *bed) followed(report func(flows.Flow) error) error {
	table, err := flows.Open(b.dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(b.Context(), followedFor)
	defer cancel()
	return errors.Join(table.Follow(ctx, flows.Filter{}, followedEvery, report), table.Close())
}

// follows wants all flows to be there from the first look on, and nothing to become of them.
func (w *whole) follows() error {
	told := 0
	err := w.followed(func(f flows.Flow) error {
		if !slices.ContainsFunc(w.kept, func(c *harness.Conversation) bool {
			return f.Protocol == c.Protocol() && f.Peer == c.Peer.Addr().String() && f.PeerPort == c.Peer.Port()
		}) {
			return nil // of a trace
		}
		if told++; f.Event != flows.EventNew {
			return fmt.Errorf("%s is %s", &f, f.Event)
		}
		return nil
	})
	if err == nil && told != len(w.kept) {
		err = fmt.Errorf("%d new flows, not %d", told, len(w.kept))
	}
	return err
}

// examined wants nothing to be wrong with the host, with a datapath and without. That no daemon runs is true between
// two of them.
func (b *bed) examined() reader {
	root := b.TempDir()
	return func() error {
		findings, err := doctor.Examine(doctor.Options{PinDir: b.dir, Config: config.Default(), Root: root})
		if err != nil {
			return fmt.Errorf("examine: %w", err)
		}
		for _, f := range findings {
			if f.Severity != doctor.OK && !strings.Contains(f.Found, "no daemon runs") {
				return fmt.Errorf("%s: %s: %s", f.Severity, f.Check, f.Found)
			}
		}
		return nil
	}
}
