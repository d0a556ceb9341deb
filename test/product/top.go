// SPDX-License-Identifier: Apache-2.0

package product

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// Look is a line of `replypath top -o json`, as checks read it.
type Look struct {
	Time       time.Time
	Seconds    float64
	Mode       string
	Daemon     struct{ Running bool }
	Interfaces []LookedAt
	Total      struct {
		Corrected Volume
		Asymmetry
	}
	FlowTables []struct {
		Table           string
		Flows, Capacity int
	} `json:"flow_tables"`
	Flows []struct {
		Flow
		Rate float64 `json:"corrected_packets_per_second"`
	}
}

// LookedAt is an interface in a look.
type LookedAt struct {
	Name         string
	Up, Attached bool
	To           Volume `json:"corrected_to"`
	From         Volume `json:"corrected_from"`
	Asymmetry
}

// Volume is what passes in a second.
type Volume struct {
	Packets float64 `json:"packets_per_second"`
	Bytes   float64 `json:"bytes_per_second"`
}

// Asymmetry is what passes in a second by another way than its flow.
type Asymmetry struct {
	Packets     float64            `json:"asymmetric_packets_per_second"`
	Uncorrected map[string]float64 `json:"uncorrected_packets_per_second"`
}

// Top is a running `replypath top -o json`.
type Top struct{ *Program }

// Top starts to look, and returns after the first interval.
func (p *Product) Top(args ...string) *Top {
	p.t.Helper()
	args = append([]string{"top", "-o", "json", "--interval", "200ms", "--limit", "100"}, args...)
	top := &Top{StartProgram(p.t, p.Command(context.Background(), args...), unix.SIGINT)}
	top.WaitLooks(1)
	return top
}

// Looks returns those of which the whole line is there.
func (p *Top) Looks() []Look {
	p.t.Helper()
	var looks []Look
	for line := range strings.Lines(p.Log.String()) {
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "\n") {
			continue
		}
		var look Look
		await.Must(p.t, json.Unmarshal([]byte(line), &look))
		looks = append(looks, look)
	}
	return looks
}

// WaitLooks returns when there are at least so many.
func (p *Top) WaitLooks(n int) {
	p.t.Helper()
	await.Eventually(p.t, fmt.Sprintf("%d looks", n), func() error {
		if looks := p.Looks(); len(looks) < n {
			return fmt.Errorf("%d looks", len(looks))
		}
		return nil
	})
}
