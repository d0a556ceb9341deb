// SPDX-License-Identifier: Apache-2.0

package fakehost

import (
	"slices"
	"time"

	"replypath/loader/flows"
	"replypath/loader/status"
	"replypath/loader/top"
)

// DetachedDir is a pin directory of the fake host that somebody detaches after the first look.
const DetachedDir = "detached"

// Top is what looks at a host that always does the same, a second later each time; see top.New.
func Top(dir string, order flows.Order, limit int) (look func() (*top.Look, error)) {
	looks := 0
	return func() (*top.Look, error) {
		if looks++; looks > 1 || dir != DetachedDir {
			if err := DirError(dir); err != nil {
				return nil, err
			}
		}
		look := FirstLook()
		look.Time = look.Time.Add(time.Duration(looks) * time.Second)
		if looks == 1 {
			look.Seconds = 0
		}
		if order == flows.ByAge {
			slices.Reverse(look.Flows)
		}
		look.Flows = look.Flows[:min(len(look.Flows), limit)]
		return look, nil
	}
}

// FirstLook is what there is to see, with rates.
func FirstLook() *top.Look {
	missed := func(packets float64, reasons map[string]float64) top.Asymmetry {
		return top.Asymmetry{Packets: packets, Uncorrected: reasons}
	}
	none := missed(0, map[string]float64{"mtu": 0, "observe": 0})
	some := missed(1250.04, map[string]float64{"mtu": 0.5, "observe": 1e6})
	corrected := top.Volume{Packets: 1234.5, Bytes: 999.96e3}
	list := FlowList()
	list[2].CorrectedPackets = 7
	busy, young := top.Flow{Flow: list[1], Rate: 1234.5}, top.Flow{Flow: list[2]}
	return &top.Look{
		Time: time.Date(2026, time.March, 1, 12, 30, 0, 0, time.UTC), Seconds: 1, Mode: "enforce",
		Daemon: status.Daemon{Running: true, PID: new(4711), Version: new("1.2.3"), Passed: time.Now()},
		Interfaces: []top.Interface{
			{Name: "eth0", Index: 2, Up: true, Attached: true, Mechanism: new("tcx"), Mode: "enforce",
				From: corrected, Asymmetry: none},
			{Name: "eth1", Index: 3, Up: true, Attached: true, Mechanism: new("tcx"), Mode: "enforce",
				To: corrected, Asymmetry: some},
			{Name: "eth2", Index: 4, Mode: "observe", Asymmetry: none},
		},
		Total: top.Total{Corrected: corrected, Asymmetry: some},
		FlowTables: []flows.TableUsage{
			{Name: "half_open", Flows: 0, Capacity: 65536}, {Name: "established", Flows: 1, Capacity: 262144},
			{Name: "connectionless", Flows: 1, Capacity: 131072},
		},
		Flows: []top.Flow{busy, young},
	}
}
