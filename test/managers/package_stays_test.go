// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"context"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/pins"
	"replypath/test/await"
	"replypath/test/product"
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
	if said := p.m.Refuse(p.remove...); !strings.Contains(said, "replypath: ") {
		p.Errorf("the removal says %q", said)
	}
	p.m.Run(p.query...)
	p.m.Run("replypath", "version")
	holds()
	p.m.Run("umount", path)
	p.wantNothingNoted()
}

// wantUnit wants systemctl to say a word of the unit.
func (p *packaged) wantUnit(asked, want string) {
	p.Helper()
	output, _ := p.m.Command(p.Context(), "systemctl", asked, service).CombinedOutput() // its exit code says no more
	if got := strings.TrimSpace(string(output)); got != want {
		p.Errorf("systemctl %s says %q, not %q", asked, got, want)
	}
}

// serving wants a version to run by its unit, which is enabled or is not.
func (p *packaged) serving(enabled, version string) {
	p.Helper()
	waitManaged(p.T, p.p)
	p.wantVersion(version)
	p.wantUnit("is-active", "active")
	p.wantUnit("is-enabled", enabled)
}

// wantNothingNoted wants no note of a removal to be left.
func (p *packaged) wantNothingNoted() {
	p.Helper()
	if notes := p.m.Run("find", "/run", "-maxdepth", "1", "-name", "replypath*"); notes != "" {
		p.Errorf("left in /run: %s", notes)
	}
}

// TestPackageRemovalGivenUp has dpkg begin a removal, which it gives up after the package's own script has succeeded,
// or is killed in the middle of it. What ran and was enabled runs and is enabled again.
func TestPackageRemovalGivenUp(t *testing.T) {
	p := newPackaged(t, managers[0])
	p.installs()
	p.serves()
	p.outlivesUsurper()
	p.outlivesKilled()
}

// usurper is a package that takes the place of another, and fails as it is to be unpacked. $1 is its file.
const usurper = `
mkdir -p /tmp/usurper/DEBIAN
cat >/tmp/usurper/DEBIAN/control <<end
Package: usurper
Version: 1
Architecture: all
Maintainer: nobody <nobody@localhost>
Conflicts: replypath
Replaces: replypath
Description: in the place of another
end
printf '#!/bin/sh\nexit 1\n' >/tmp/usurper/DEBIAN/preinst
chmod 755 /tmp/usurper/DEBIAN/preinst
TMPDIR=/tmp dpkg-deb --build /tmp/usurper "$1"
rm -r /tmp/usurper
`

// outlivesUsurper has dpkg remove the package in favour of one that it then cannot unpack.
func (p *packaged) outlivesUsurper() {
	p.Helper()
	const file = "/tmp/usurper.deb"
	p.m.Run("sh", "-ec", usurper, "sh", file)
	if said := p.m.Refuse("dpkg", "--install", file); !strings.Contains(said, "in favour of usurper") {
		p.Errorf("dpkg says %q", said)
	}
	p.serving("enabled", oldVersion)
	p.wantNothingNoted()
}

// deaf waits for the lock of the pin directory $1, which the daemon has, holds it then, and does not end when it is
// told to.
const deaf = `trap '' TERM; exec flock "$1" sh -c 'echo $$ >/run/test/deaf; exec sleep infinity'`

// outlivesKilled kills dpkg while the package's script waits for the end of a process, after it has stopped the
// service, and goes on as dpkg is told to.
func (p *packaged) outlivesKilled() {
	p.Helper()
	holder := product.StartProgram(p.T, p.m.Command(context.Background(), "sh", "-ec", deaf, "sh", pins.DefaultDir), unix.SIGKILL)
	removal := product.StartProgram(p.T, p.m.Command(context.Background(), p.remove...), unix.SIGKILL)
	await.Eventually(p.T, "the service is stopped", func() error {
		_, err := os.Stat(p.m.Shared("deaf"))
		return err
	})
	for _, program := range []*product.Program{removal, holder} {
		await.Must(p.T, unix.Kill(-program.PID(), unix.SIGKILL))
		program.WaitEnd()
	}
	p.m.Refuse("systemctl", "--quiet", "is-active", service)
	p.m.Run("dpkg", "--configure", "replypath")
	p.serving("enabled", oldVersion)
	p.wantNothingNoted()
}
