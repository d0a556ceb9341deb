// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"time"

	"replypath/bpf"
)

// GracePeriod is how long what the host sends may still answer a question that
// is not known: after programs were attached, flows forgotten, or tables replaced.
const GracePeriod = 2 * time.Second

// patience is how long the programs of all interfaces may take to be replaced. Those for devices without an Ethernet
// header, and those of the source repair, are only loaded then.
const patience = 30 * time.Second

// Grace keeps the datapath from taking what the host has sent, and sends for a while, for the beginning of a
// conversation of datagrams, unless it was answered before: the question may have come in before anybody recorded it.
func Grace(maps *bpf.Maps, clock Clock, period time.Duration) error {
	if err := maps.Grace.Set(clock.After(period)); err != nil {
		return fmt.Errorf("write the end of the grace period: %w", err)
	}
	return nil
}

// InGrace does something after which more of what comes in is seen, or recorded. It is shared with the earlier
// datapath whose place this one takes, unless that is of another layout.
func (d *Datapath) InGrace(do func() error) error {
	return errors.Join(openGrace(d, patience), do(), openGrace(d, GracePeriod))
}

func openGrace(d *Datapath, period time.Duration) error {
	clock, err := d.Clock()
	if err != nil {
		return err
	}
	return Grace(&d.Maps, clock, period)
}

// GraceAt is that of the maps that are pinned in a directory; those of another
// version have none.
func GraceAt(path string, programs *ProgramSet) error {
	maps, err := openMaps(path)
	if errors.Is(err, errLayout) {
		return nil
	}
	if err != nil {
		return err
	}
	defer maps.Close()
	clock, err := runClock(programs.program(clockName))
	if err != nil {
		return err
	}
	return Grace(maps, clock, GracePeriod)
}

// After returns the tick that comes so much later than the reading.
func (c Clock) After(period time.Duration) uint32 {
	ticks := period.Seconds() * float64(c.hertz) / float64(bpf.DatapathTickJIFFIES_PER_TICK)
	return c.now + uint32(ticks)
}
