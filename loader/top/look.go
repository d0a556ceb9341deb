// SPDX-License-Identifier: Apache-2.0

// Package top tells what a datapath does at present: what it corrects a second,
// for which interfaces and which flows. It reads the pins and needs no daemon.
package top

import (
	"time"

	"replypath/loader/flows"
	"replypath/loader/status"
)

// Look is what a datapath did since the look before. The JSON names are fixed.
// Packets and bytes are counted as on the wire, those that were corrected when
// they leave.
type Look struct {
	Time       time.Time          `json:"time"`
	Seconds    float64            `json:"seconds"` // since the look before; 0: there was none, and rates are 0
	Mode       string             `json:"mode"`    // "enforce" or "observe"
	Daemon     status.Daemon      `json:"daemon"`
	Interfaces []Interface        `json:"interfaces"` // those that are managed, by index
	Total      Total              `json:"total"`
	FlowTables []flows.TableUsage `json:"flow_tables"`
	Flows      []Flow             `json:"flows"` // the busiest corrected ones
}

// Interface is a managed interface, and what was corrected from and to it.
type Interface struct {
	Name      string  `json:"name"`
	Index     int     `json:"index"`
	Up        bool    `json:"up"`
	Attached  bool    `json:"attached"`
	Mechanism *string `json:"mechanism"` // "tcx" or "clsact"
	Mode      string  `json:"mode"`      // the one in force
	// To is what left by this interface although the kernel had chosen another
	// way, From what the kernel wanted to send by it.
	To   Volume `json:"corrected_to"`
	From Volume `json:"corrected_from"`
	Asymmetry
}

// Total is for all interfaces together, those that have gone and those that are
// no longer managed included.
type Total struct {
	Corrected Volume `json:"corrected"`
	Asymmetry
}

// Volume is what passes in a second.
type Volume struct {
	Packets float64 `json:"packets_per_second"`
	Bytes   float64 `json:"bytes_per_second"`
}

// Asymmetry is what the kernel would have sent another way than its flow came, by
// the flow's interface. All reasons that there are have an entry.
type Asymmetry struct {
	Packets float64 `json:"asymmetric_packets_per_second"`
	// Uncorrected are those that went as routed all the same, by reason.
	Uncorrected map[string]float64 `json:"uncorrected_packets_per_second"`
}

// Flow is a flow of which packets were corrected.
type Flow struct {
	flows.Flow
	Rate float64 `json:"corrected_packets_per_second"`
}
