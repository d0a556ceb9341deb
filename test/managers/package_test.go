// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/loader/pins"
	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
)

// manager is what installs packages.
type manager struct {
	kind string // target of make, and suffix of its files
	// Of a package file: what it holds, and which of that is configuration.
	list, configs []string
	zsh           string // where completions are looked for
	// install serves upgrades as well, keep those to a package with another default, which goes beside the operator's
	// configuration. purge is nil where a removal is all there is.
	install, keep, remove, purge []string
	beside                       string   // suffix of that default
	query                        []string // succeeds while the package is there
}

// rpm is a command on a database of its own: to that of Debian's rpm, which is made for looking at packages, dpkg's
// would be missing.
func rpm(args ...string) []string {
	return append([]string{"rpm", "--force-debian", "--dbpath=/var/lib/rpm-test"}, args...)
}

// managers are those of the packages.
var managers = []manager{
	{
		kind:    "deb",
		list:    []string{"dpkg-deb", "--contents"},
		zsh:     "/usr/share/zsh/vendor-completions/_replypath",
		configs: []string{"sh", "-c", `dpkg-deb --ctrl-tarfile "$0" | tar -xO ./conffiles`},
		install: []string{"dpkg", "--install"},
		keep:    []string{"dpkg", "--force-confold", "--install"},
		beside:  ".dpkg-dist",
		remove:  []string{"dpkg", "--remove", "replypath"},
		purge:   []string{"dpkg", "--purge", "replypath"},
		query:   []string{"dpkg-query", "--status", "replypath"},
	},
	{
		kind:    "rpm",
		list:    []string{"rpm", "--query", "--list", "--verbose", "--package"},
		zsh:     "/usr/share/zsh/site-functions/_replypath",
		configs: []string{"rpm", "--query", "--configfiles", "--package"},
		install: rpm("--nodeps", "--oldpackage", "--upgrade"),
		keep:    rpm("--nodeps", "--upgrade"),
		beside:  ".rpmnew",
		remove:  rpm("--erase", "replypath"),
		query:   rpm("--query", "replypath"),
	},
}

// What is installed, and upgraded to.
const (
	oldVersion = "1.0.0"
	newVersion = "1.1.0"
)

// TestPackage installs, upgrades, removes and purges the packages with the real dpkg and rpm, on a machine of their
// own, under traffic.
func TestPackage(t *testing.T) {
	for _, manager := range managers {
		t.Run(manager.kind, func(t *testing.T) {
			p := newPackaged(t, manager)
			p.holds(testhost.MakePackage(t, manager.kind, oldVersion))
			host, files := p.look(), p.m.Changes()
			p.installs()
			p.serves()
			p.replaces(newVersion)
			p.replaces(oldVersion)
			p.reboots()
			p.stays()
			p.removes(host)
			p.purges(files)
		})
	}
}

// packaged is a machine that a package is installed on.
type packaged struct {
	*testing.T
	manager
	n *topology.TwoNIC
	m *testhost.Machine
	p *product.Product
}

// newPackaged boots a machine that has packages of both versions at hand. More variables of make may be set for the new one.
func newPackaged(t *testing.T, manager manager, variables ...string) *packaged {
	t.Helper()
	n, _ := newServer(t)
	p := &packaged{T: t, manager: manager, n: n, m: testhost.NewMachine(t, n.Server.Host)}
	p.p = product.On(t, n.Server.Host).WithPinDir(pins.DefaultDir)
	for version, variables := range map[string][]string{oldVersion: nil, newVersion: variables} {
		text := await.Must1[[]byte](t)(os.ReadFile(testhost.MakePackage(t, manager.kind, version, variables...)))
		await.Must(t, os.WriteFile(p.m.Shared(version+"."+manager.kind), text, 0o644))
	}
	p.m.Boot()
	p.m.WaitBooted()
	return p
}

func (p *packaged) look() testhost.Snapshot {
	p.Helper()
	return testhost.TakeSnapshot(p.T, p.n.Server.Host, "eth0", "eth1")
}

// file is where the machine has a package.
func (p *packaged) file(version string) string { return "/run/test/" + version + "." + p.kind }

// put installs a version, or upgrades to it, and returns what was said.
func (p *packaged) put(version string) string {
	p.Helper()
	said := p.m.Run(append(slices.Clone(p.install), p.file(version))...)
	await.Says(p, "what is installed", p.m.Run("replypath", "version"), version)
	return said
}

// howToBegin is what a first installation says.
const howToBegin = `begin with "replypath doctor", then "replypath try"`

// installs wants nothing to be enabled, started or attached by a first installation.
func (p *packaged) installs() {
	p.Helper()
	if said := p.put(oldVersion); strings.Count(said, howToBegin) != 1 {
		p.Errorf("the package does not say how to begin, once: %q", said)
	}
	p.m.Run(p.query...)
	for _, state := range []string{"is-enabled", "is-active", "is-failed"} {
		p.m.Refuse("systemctl", "--quiet", state, service)
	}
	p.wantNothingPinned()
	p.m.Run("replypath", "check")
	p.Log("installed: not enabled, not active, nothing pinned")
}

func (p *packaged) wantNothingPinned() {
	p.Helper()
	if _, err := os.Stat(pins.DefaultDir); !os.IsNotExist(err) {
		p.Errorf("the pin directory: %v", err)
	}
}

// packagedConfig is what an operator makes of the configuration.
const (
	packagedConfigFile = "/etc/replypath/replypath.yaml"
	packagedConfig     = "# Mine.\nmode: enforce\n"
)

// serves enables and starts the service as the README tells, with a configuration of the operator's.
func (p *packaged) serves() {
	p.Helper()
	p.m.Write(packagedConfigFile, packagedConfig)
	p.m.Run("systemctl", "enable", "--now", service)
	waitManaged(p.T, p.p)
	p.wantVersion(oldVersion)
}

// wantVersion wants a version to run, with the operator's configuration.
func (p *packaged) wantVersion(version string) {
	p.Helper()
	await.Eventually(p.T, version+" runs", func() error {
		if s := p.p.Status(); !s.Daemon.Running || *s.Daemon.Version != version {
			return fmt.Errorf("%+v", s.Daemon)
		}
		return nil
	})
	await.Same(p, "the configuration", packagedConfig, p.m.Run("cat", packagedConfigFile))
	wantManaged(p.T, p.p)
}

// replaces upgrades to another version, or goes back to one, and wants every question meanwhile to be answered by eth1.
func (p *packaged) replaces(version string) {
	p.Helper()
	load := startLoad(p.T, p.n)
	p.put(version)
	p.wantVersion(version)
	p.Logf("%s, to %s: %s", p.kind, version, load.Stop())
}

// reboots wants the service to come back by itself.
func (p *packaged) reboots() {
	p.Helper()
	p.m.PowerOff()
	p.m.Boot()
	p.m.WaitBooted()
	waitManaged(p.T, p.p)
	p.wantVersion(oldVersion)
}

// removes wants a removal to leave the host as it was, but for the configuration.
func (p *packaged) removes(before testhost.Snapshot) {
	p.Helper()
	p.m.Run(p.remove...)
	diff := before.Diff(p.look())
	p.Logf("%s, removed: %d bytes of differences on the host", p.kind, len(diff))
	await.Same(p, "what has changed of the host", "", diff)
	p.wantNothingPinned()
	p.m.Refuse("systemctl", "--quiet", "is-active", service)
	p.m.Refuse("sh", "-c", "command -v replypath")
	await.Same(p, "what is kept of the configuration", packagedConfig, p.m.Run("sh", "-c", "cat /etc/replypath/*"))
}

// purges wants nothing to be left.
func (p *packaged) purges(before []string) {
	p.Helper()
	if p.purge != nil {
		p.m.Run(p.purge...)
	} else {
		p.m.Run("rm", "-r", "/etc/replypath") // which RPM leaves to the operator
	}
	p.m.Refuse(p.query...)
	diff := cmp.Diff(before, p.m.Changes())
	p.Logf("%s, purged: %d bytes of differences in the list of files", p.kind, len(diff))
	await.Same(p, "files", "", diff)
}

// holds wants a package to hold what `make install` installs, all of it root's, and one file to be configuration.
func (p *packaged) holds(file string) {
	p.Helper()
	show := func(args []string) string {
		args = append(slices.Clone(args), file)
		output, err := exec.CommandContext(p.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil {
			p.Fatalf("%v: %v\n%s", args, err, output)
		}
		return string(output)
	}
	list := show(p.list)
	root := filepath.Join(filepath.Dir(file), p.kind)
	await.Must(p.T, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, root)
		if filepath.Base(name) == "_replypath" {
			name = p.zsh
		}
		if err == nil && !entry.IsDir() && !strings.Contains(list, name+"\n") {
			p.Errorf("no %s:\n%s", name, list)
		}
		return err
	}))
	for line := range strings.Lines(list) {
		const groupWrites, othersWrite = 5, 8 // as in -rw-rw-rw-
		private := line[groupWrites] != 'w' && line[othersWrite] != 'w'
		roots := strings.Contains(line, "root") || strings.Contains(line, " 0/0 ") // which nfpm's changelog has no name for
		if !private || !roots || strings.Contains(line, "/usr/local") {
			p.Errorf("in the package: %s", line)
		}
	}
	await.Same(p, "configuration files", packagedConfigFile, strings.TrimSpace(show(p.configs)))
}
