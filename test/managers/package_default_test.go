// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"replypath/test/await"
)

// newDefault is a configuration under which replies would leave by the wrong NIC.
const newDefault = "# Theirs.\nmode: observe\n"

// TestPackageNewDefault upgrades, under traffic, to a package that brings another default than the one that the
// operator has made his configuration of. What the operator wrote stays and is what the new program runs by; the
// default goes beside it.
func TestPackageNewDefault(t *testing.T) {
	sample := filepath.Join(t.TempDir(), "replypath.yaml")
	await.Must(t, os.WriteFile(sample, []byte(newDefault), 0o644))
	another := "SAMPLE_CONFIG=" + sample
	for _, manager := range managers {
		t.Run(manager.kind, func(t *testing.T) {
			p := newPackaged(t, manager, another)
			files := p.m.Changes()
			p.installs()
			p.serves()
			p.install = p.keep
			p.replaces(newVersion)
			p.wantBeside()
			p.m.Run(p.remove...)
			p.purges(files)
		})
	}
	t.Run("deb/nobody answers", func(t *testing.T) {
		p := newPackaged(t, managers[0], another)
		p.installs()
		p.serves()
		p.asksInVain()
		p.wantBeside()
	})
}

// wantBeside wants the operator's configuration in force, the default beside it, and nothing else.
func (p *packaged) wantBeside() {
	p.Helper()
	await.Same(p, "mode", "enforce", p.p.Status().Mode)
	await.Same(p, "beside the configuration", newDefault, p.m.Run("cat", packagedConfigFile+p.beside))
	list := strings.Fields(p.m.Run("ls", "-A", filepath.Dir(packagedConfigFile)))
	if len(list) != 2 {
		p.Errorf("files of the configuration: %q", list)
	}
	p.Logf("%s: the operator's configuration is in force, of %q", p.kind, list)
}

// asksInVain has dpkg ask which of the two configurations it shall be, where nobody is there to answer: it gives up.
// Process, datapath and configuration are as before until it is told.
func (p *packaged) asksInVain() {
	p.Helper()
	load := startLoad(p.T, p.n)
	process := p.m.Property(service, "MainPID")
	await.Says(p, "dpkg", p.m.Refuse("dpkg", "--install", p.file(newVersion)), "conffile prompt")
	p.wantVersion(oldVersion)
	await.Same(p, "process", process, p.m.Property(service, "MainPID"))
	p.m.Run("dpkg", "--force-confold", "--configure", "replypath")
	p.wantVersion(newVersion)
	p.Logf("%s, asked in vain, then told: %s", p.kind, load.Stop())
}
