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

// sourceLinks returns the links on the cgroup, and the programs that they run.
func (b *server) sourceLinks() (links []link.ID, programs []ebpf.ProgramID) {
	b.Helper()
	for _, path := range b.sourcePins() {
		l, err := link.LoadPinnedLink(path, nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		await.Must(b.T, err)
		info, err := l.Info()
		await.Must(b.T, errors.Join(err, l.Close()))
		links, programs = append(links, info.ID), append(programs, info.Program)
	}
	return links, programs
}

func (b *server) sourcePins() []string { return source.Pins(filepath.Join(b.dir, "links")) }
