// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"time"

	"replypath/bpf"
)

// GracePeriod is how long what the host sends may still answer a question that
// is not known: after the first attachment, after flows were forgotten, and after
// the tables were replaced.
const GracePeriod = 2 * time.Second

// Grace keeps the datapath from taking what the host sends for the beginning of
// a conversation, for a while: the question may have come in before anybody
// recorded it.
func Grace(maps *bpf.DatapathMaps, clock Clock, period time.Duration) error {
	if err := maps.Grace.Put(uint32(0), clock.After(period)); err != nil {
		return fmt.Errorf("write the end of the grace period: %w", err)
	}
	return nil
}

// Grace is that of a loaded datapath. The map is shared with the earlier datapath
// whose place it takes, unless that is of another layout.
func (d *Datapath) Grace(period time.Duration) error {
	clock, err := d.Clock()
	if err != nil {
		return err
	}
	return Grace(&d.DatapathMaps, clock, period)
}

// GraceEnd returns the tick at which the grace that is running ends; 0 where none is.
func GraceEnd(maps *bpf.DatapathMaps, clock Clock) (uint32, error) {
	var end uint32
	if err := maps.Grace.Lookup(uint32(0), &end); err != nil {
		return 0, fmt.Errorf("read the end of the grace period: %w", err)
	}
	if left := end - clock.now; left == 0 || left >= uint32(bpf.DatapathTickTICKS_AHEAD) {
		return 0, nil
	}
	return end, nil
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
