// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"strings"

	"replypath/loader/pins"
	"replypath/test/await"
)

// stays wants the package to stay where it cannot take everything off the host, with what its script had ended: here
// something is mounted over a pin that the removal is to unpin.
func (p *packaged) stays() {
	p.Helper()
	p.Log("what is left of an earlier removal is in the way, which a start does not mind")
	left := pins.DefaultDir + "/links-gone"
	p.refusesRemoval(left, func() { p.serving("enabled", oldVersion) })
	p.Log("the links themselves are, which have to be there for a start as well: it is tried again")
	p.refusesRemoval(pins.DefaultDir+"/links", func() {})
	p.serving("enabled", oldVersion)
	p.Log("it was started, but not enabled")
	p.m.Run("systemctl", "disable", service)
	p.refusesRemoval(left, func() { p.serving("disabled", oldVersion) })
	p.Log("it was enabled, and stopped")
	p.m.Run("systemctl", "enable", service)
	p.m.Run("systemctl", "stop", service)
	p.refusesRemoval(left, func() {
		p.m.Refuse("systemctl", "--quiet", "is-active", service)
		p.wantUnit("is-enabled", "enabled")
	})
	p.m.Run("systemctl", "start", service)
	p.serving("enabled", oldVersion)
}

// refusesRemoval wants a removal to fail while something is mounted at a path, and something to hold then.
func (p *packaged) refusesRemoval(path string, holds func()) {
	p.Helper()
	p.m.Run("mkdir", "-p", path)
	p.m.Run("mount", "-t", "tmpfs", "tmpfs", path)
	await.Says(p, "the removal", p.m.Refuse(p.remove...), "replypath: ")
	p.m.Run(p.query...)
	p.m.Run("replypath", "version")
	holds()
	p.m.Run("umount", path)
	p.wantNothingNoted()
}

// unit asks systemctl for a word about the unit; its exit code says no more.
func (p *packaged) unit(asked string) string {
	output, _ := p.m.Command(p.Context(), "systemctl", asked, service).CombinedOutput()
	return strings.TrimSpace(string(output))
}

func (p *packaged) wantUnit(asked, want string) {
	p.Helper()
	await.Same(p, "what systemctl "+asked+" says", want, p.unit(asked))
}

// serving wants a version to run by its unit, which is enabled or is not. The daemon manages the interfaces before it says
// so to systemd.
func (p *packaged) serving(enabled, version string) {
	p.Helper()
	waitManaged(p.T, p.p)
	p.wantVersion(version)
	await.Becomes(p, "the unit", "active", func() string { return p.unit("is-active") })
	p.wantUnit("is-enabled", enabled)
}

// wantNothingNoted wants no note of a removal to be left.
func (p *packaged) wantNothingNoted() {
	p.Helper()
	await.Same(p, "left in /run", "", p.m.Run("find", "/run", "-maxdepth", "1", "-name", "replypath*"))
}
