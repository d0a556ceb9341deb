// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"replypath/loader/config"
	"replypath/loader/source"
	"replypath/test/await"
)

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
