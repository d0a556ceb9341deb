// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"replypath/bpf/internal/rig"
)

const ownLine = 128 // two lines on, as some processors fetch two at once

// counterCases add 1 in every run, with nobody beside them, and beside another CPU that does so too.
func (l *leads) counterCases() (all []testCase, err error) {
	// It begins with a page, so that it is known what is in a line.
	shared, err := l.newMap(ebpf.MapSpec{Type: ebpf.Array, Flags: unix.BPF_F_MMAPABLE, KeySize: 4, ValueSize: 2 * ownLine, MaxEntries: 1})
	if err != nil {
		return nil, err
	}
	each, err := l.newMap(ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return nil, err
	}
	cpu, err := cpuBeside()
	if err != nil {
		return nil, err
	}
	const alone = -1
	for _, counter := range []struct {
		name   string
		counts *ebpf.Map
		atomic bool
		beside int16 // where the other CPU adds
	}{
		{"atomic add", shared, true, alone},
		{"atomic add, two CPUs, one counter", shared, true, 0},
		{"atomic add, two CPUs, two counters in one line", shared, true, 8},
		{"atomic add, two CPUs, counters in lines of their own", shared, true, ownLine},
		{"add", shared, false, alone},
		{"add, two CPUs, two counters in one line", shared, false, 8},
		{"add, two CPUs, counters in lines of their own", shared, false, ownLine},
		{"add to a per-CPU map", each, false, alone},
		{"add to a per-CPU map, two CPUs", each, false, 0},
	} {
		program, err := l.program(count(counter.counts, 0, counter.atomic))
		if err != nil {
			return nil, err
		}
		c := l.lead(counter.name, program, l.bench.empty)
		if counter.beside != alone {
			other, err := l.program(count(counter.counts, counter.beside, counter.atomic))
			if err != nil {
				return nil, err
			}
			c.beside = &neighbor{program: other, frame: c.frame, cpu: cpu}
		}
		c.prove = func(c *testCase) error { return c.wantSum(counter.counts) }
		all = append(all, c)
	}
	return all, nil
}

// wantSum wants every run to add 1 to one of the numbers in a map.
func (c *testCase) wantSum(counts *ebpf.Map) error {
	const runs = 1000
	var sums [2]uint64
	for i := range sums {
		bytes, err := counts.LookupBytes(uint32(0))
		if err != nil {
			return fmt.Errorf("read the counters: %w", err)
		}
		for at := 0; at < len(bytes); at += 8 {
			sums[i] += binary.NativeEndian.Uint64(bytes[at:])
		}
		if i > 0 {
			break
		}
		if _, err := c.program.Run(c.options(runs)); err != nil {
			return err
		}
	}
	if sums[1]-sums[0] != runs {
		return fmt.Errorf("%d runs have counted %d", runs, sums[1]-sums[0])
	}
	return nil
}

// count adds 1 to a number in a map.
func count(counts *ebpf.Map, at int16, atomically bool) asm.Instructions {
	add := asm.Instructions{asm.Mov.Imm(asm.R1, 1), asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, at)}
	if !atomically {
		add = asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, at, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, at, asm.R1, asm.DWord),
		}
	}
	look := append(asm.Instructions{asm.StoreImm(asm.R10, -4, 0, asm.Word)}, lookUp(counts, -4)...)
	return append(append(look, asm.JEq.Imm(asm.R0, 0, "done")), add...)
}

// cpuBeside is one that the calling thread does not run on.
func cpuBeside() (int, error) {
	var own unix.CPUSet
	if err := unix.SchedGetaffinity(0, &own); err != nil {
		return 0, fmt.Errorf("read the CPU of the measurement: %w", err)
	}
	for cpu := range runtime.NumCPU() {
		if !own.IsSet(cpu) {
			return cpu, nil
		}
	}
	return 0, errors.New("two CPUs need a second one")
}

// neighbor is a program that another CPU runs all the while.
type neighbor struct {
	program *ebpf.Program
	frame   []byte
	cpu     int
}

// during measures beside the other CPU, again if that had something else to do for a tenth of the time.
func (n *neighbor) during(measure func() error) error {
	const tries = 50
	share := 0.0
	for range tries {
		running, ended := make(chan struct{}), make(chan error, 1)
		var over atomic.Bool
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			var err error
			share, err = n.run(running, &over)
			ended <- err
		}()
		var err error
		select {
		case <-running:
			err = measure()
			over.Store(true)
			if other := <-ended; err == nil {
				err = other
			}
		case err = <-ended:
		}
		if err != nil || share > 0.9 {
			return err
		}
	}
	return fmt.Errorf("the CPU beside ran the program for %.0f %% of the time", share*100)
}

// run returns how much of the time it had the CPU.
func (n *neighbor) run(running chan<- struct{}, over *atomic.Bool) (float64, error) {
	const runs = 10_000
	if err := rig.Pin(n.cpu); err != nil {
		return 0, err
	}
	options := &ebpf.RunOptions{Data: n.frame, Repeat: runs}
	if _, err := n.program.Run(options); err != nil {
		return 0, fmt.Errorf("run beside: %w", err)
	}
	begun, start, err := time.Now(), int64(0), error(nil)
	if start, err = threadTime(); err != nil {
		return 0, err
	}
	close(running)
	for !over.Load() {
		if _, err := n.program.Run(options); err != nil {
			return 0, fmt.Errorf("run beside: %w", err)
		}
	}
	end, err := threadTime()
	return float64(end-start) / float64(time.Since(begun)), err
}
