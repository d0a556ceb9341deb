// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
)

// TestRestartVerifiesNothing: the next start of the same build has no program verified again, under conversations of
// every kind. It is compared with a first start, which loads all of them.
func TestRestartVerifiesNothing(t *testing.T) {
	for _, mechanism := range mechanisms {
		t.Run(mechanism, func(t *testing.T) {
			n := newServer(t)
			p := harness.On(t, n.Server.Host)
			first := start(p, mechanism)
			if mechanism == mechanisms[0] {
				harness.NeedTCX(t)
			}
			all := keepAskingAll(t, n)
			programs := pinnedPrograms(t, p)
			end := map[string]func(*harness.Daemon){
				"stopped": func(d *harness.Daemon) { d.Stop(unix.SIGTERM) },
				"killed":  (*harness.Daemon).Kill,
			}
			d := first
			for how, end := range end {
				end(d)
				goOn(all)
				d = start(p, mechanism)
				t.Logf("ready after %s, the first start after %s", d.ReadyAfter, first.ReadyAfter)
				if after := pinnedPrograms(t, p); !maps.Equal(programs, after) {
					t.Errorf("%s and started again: programs %v became %v", how, programs, after)
				}
				goOn(all)
			}
			endAll(all)
			wantAdmissions(t, p, 2, 2, 4)
			d.Stop(unix.SIGTERM)
			p.Detach()
			start(p, mechanism)
			for name, id := range pinnedPrograms(t, p) {
				if programs[name] == id {
					t.Errorf("%s has outlived detach", name)
				}
			}
		})
	}
}

// pinnedPrograms returns the ids of the programs that are pinned. The kernel gives another to each that it verifies.
func pinnedPrograms(t *testing.T, p *harness.Product) map[string]ebpf.ProgramID {
	t.Helper()
	dir := filepath.Join(p.PinDir, "maps", "programs")
	ids := make(map[string]ebpf.ProgramID)
	for _, entry := range harness.Must1[[]os.DirEntry](t)(os.ReadDir(dir)) {
		program := harness.Must1[*ebpf.Program](t)(ebpf.LoadPinnedProgram(filepath.Join(dir, entry.Name()), nil))
		info := harness.Must1[*ebpf.ProgramInfo](t)(program.Info())
		ids[entry.Name()], _ = info.ID()
		harness.Must(t, program.Close())
	}
	return ids
}
