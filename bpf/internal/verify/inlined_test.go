// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf/rlimit"

	"replypath/bpf"
	"replypath/test/await"
)

// TestLookupsAreInlined wants the kernel to inline every lookup, or to call the map's own function. Where the compiler
// has made one lookup of two in different maps, two functions are called, one of them by pointer.
func TestLookupsAreInlined(t *testing.T) {
	await.Must(t, rlimit.RemoveMemlock()) // kernels before 5.11
	spec, err := bpf.LoadDatapath()
	await.Must(t, err)
	features, err := bpf.ProbeFeatures()
	await.Must(t, err)
	await.Must(t, bpf.SetFeatures(spec, features))
	await.Must(t, spec.Variables[bpf.DatapathVarDigestSeed].Set(await.Must1[bpf.Seeds](t)(bpf.NewSeeds())))
	known := 0 // calls that the kernel makes by pointer, as it does all others
	for name := range spec.Programs {
		collection, err := loadAlone(spec, name, 0)
		await.Must(t, err)
		info, err := collection.Programs[name].Info()
		await.Must(t, err)
		instructions, err := info.Instructions()
		await.Must(t, err)
		for _, ins := range instructions {
			if ins.IsBuiltinCall() && ins.Constant == offsetOf(t, "bpf_map_lookup_elem") {
				t.Errorf("%s: a lookup in more than one map", name)
			}
			if ins.IsBuiltinCall() && ins.Constant == offsetOf(t, "bpf_skb_load_bytes") {
				known++
			}
		}
		collection.Close()
	}
	if known == 0 {
		t.Error("no call is recognised")
	}
}

var symbols map[string]uint64

// offsetOf returns where the kernel calls a helper: from __bpf_call_base on.
func offsetOf(t *testing.T, helper string) int64 {
	t.Helper()
	if symbols == nil {
		symbols = make(map[string]uint64)
		file := await.Must1[*os.File](t)(os.Open("/proc/kallsyms"))
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if fields := strings.Fields(lines.Text()); strings.Contains(fields[2], "bpf_") {
				symbols[fields[2]] = await.Must1[uint64](t)(strconv.ParseUint(fields[0], 16, 64))
			}
		}
	}
	base, at := symbols["__bpf_call_base"], symbols[helper]
	if base == 0 || at == 0 {
		t.Fatalf("/proc/kallsyms does not say where %s is", helper)
	}
	return int64(at - base)
}
