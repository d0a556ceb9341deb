// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/pins"
	"replypath/loader/source"
	"replypath/loader/trace"
	"replypath/test/await"
)

func TestMostExclusions(t *testing.T) {
	await.Same(t, "exclusions that the programs look at", config.MaxExclusions, len(bpf.DatapathExclusionSet{}.Rule))
}

// TestNothingStaysOpen: rounds of all that opens something leave the same files open.
func TestNothingStaysOpen(t *testing.T) {
	b := newServerAlone(t)
	// The first round opens what stays for good, such as the kernel's BTF.
	for round, before := 0, []string(nil); round < 3; round++ {
		r := b.start()
		await.Must(t, r.reload(largerConfig))
		b.status()
		b.flows()
		b.setMode("observe")
		r.stop()
		b.failAfter(b.failAfter(1), byClsact)
		b.detach()
		b.failAfter(b.failAfter(1))
		after := openFiles(t)
		if round > 0 {
			await.Same(b, "open files", before, after)
		}
		before = after
	}
}

// openFiles returns what the descriptors of this process refer to. Those of the topology and of the runtime are there
// before and after.
func openFiles(t *testing.T) (files []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	await.Must(t, err)
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name()))
		if err == nil && !strings.HasPrefix(target, "/proc/") {
			files = append(files, target)
		}
	}
	slices.Sort(files)
	return files
}

func repairSource(o *Options) { o.Config.RepairUDPSource = config.RepairTrue }

// sourcePrograms returns the programs that the links on the cgroup run.
func (b *server) sourcePrograms() (programs []ebpf.ProgramID) {
	b.Helper()
	for _, path := range source.Pins(filepath.Join(b.dir, "links")) {
		l, err := link.LoadPinnedLink(path, nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		await.Must(b.T, err)
		info, err := l.Info()
		await.Must(b.T, errors.Join(err, l.Close()))
		programs = append(programs, info.Program)
	}
	return programs
}

func observer(ready func(), packet func(trace.Packet)) trace.Observer {
	return trace.Observer{Ready: ready, Packet: func(p trace.Packet) error { packet(p); return nil }, Lost: func(uint64) {}}
}

// TestTraceEnds: a trace ends when what it traces is taken away or has its place taken, instead of waiting for what no program
// tells it any more.
func TestTraceEnds(t *testing.T) {
	for name, change := range map[string]func(*server){
		"detached":                             func(b *server) { b.detach() },
		"detached and started again":           func(b *server) { b.detach(); b.start() },
		"the place is taken by another layout": func(b *server) { b.setForeignLayout(); b.start() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newServer(t)
			b.start().stop()
			ended, ready := make(chan error, 1), make(chan struct{})
			go func() { ended <- b.traceUntilTheEnd(func() { close(ready) }) }()
			select {
			case <-ready:
			case err := <-ended:
				t.Fatalf("the trace ended with %v", err)
			}
			change(b)
			select {
			case err := <-ended:
				if !errors.Is(err, pins.ErrNone) {
					t.Errorf("the trace ended with %v", err)
				}
			case <-within(t).Done():
				t.Error("the trace goes on")
			}
		})
	}
}

// traceUntilTheEnd traces everything until the test or the datapath ends.
func (b *server) traceUntilTheEnd(ready func()) error {
	return b.host.Do(func() error {
		return trace.Follow(b.Context(), b.dir, trace.Filter{}, observer(ready, func(trace.Packet) {}))
	})
}
