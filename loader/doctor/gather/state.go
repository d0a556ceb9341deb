// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf/rlimit"

	"replypath/loader/config"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/kernel"
	"replypath/loader/pins"
	"replypath/loader/problems"
)

// configuration finds out by which configuration the host is examined: the one that is asked for, else
// the one in force, else the one that a start would read.
func (g *gatherer) configuration() error {
	g.host.Config, g.host.ConfigPath = g.Config, g.ConfigPath
	if g.journal == nil {
		return g.wouldBe()
	}
	f := &snapshot.InForce{
		Path: g.journal.ConfigPath, LoadedAt: g.journal.LoadedAt, Running: g.host.Daemon != nil,
		Refused: g.journal.ConfigErr,
	}
	g.host.InForce = f
	// What cannot be decoded is that of a later version, as what is missing is of an earlier one.
	f.Config, _ = config.Decode(g.journal.Config)
	if g.Config != nil {
		return nil
	}
	read := g.compare(f)
	g.host.ConfigPath = f.LoadedFrom()
	g.host.Config = cmp.Or(f.Config, read, config.Default())
	return nil
}

// wouldBe loads what a start without flags reads. What is wrong with it is an error here as there.
func (g *gatherer) wouldBe() (err error) {
	if g.Config != nil {
		return nil
	}
	g.host.ConfigPath = config.DefaultPath
	g.host.Config, err = config.Load(config.DefaultPath)
	if errors.Is(err, fs.ErrNotExist) {
		g.host.Config, err = config.Default(), nil
	}
	return err
}

// compare reads the file that is in force, and notes where it says something else by now. It returns
// what it says, nil where that is not known.
func (g *gatherer) compare(f *snapshot.InForce) *config.Config {
	if f.File = elsewhere(g.PinDir, f.LoadedFrom()); f.File != "" {
		return nil
	}
	read, err := config.Load(f.LoadedFrom())
	switch {
	case errors.Is(err, fs.ErrNotExist) && f.Path == "":
		return config.Default()
	case errors.Is(err, fs.ErrNotExist):
		f.File, f.Wrong = "it is gone: put it back, an empty one will do", true
		return nil
	}
	if err == nil && f.Config != nil {
		err = f.Config.Flags.Apply(read)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.File = "it may not be read, so it may say something else"
		return nil
	case err != nil:
		f.File, f.Wrong = problems.OneLine(err), true
		return nil
	case f.Config != nil && !bytes.Equal(read.Encode(), f.Config.Encode()):
		f.File = "it has changed since it was loaded"
	}
	return read
}

// elsewhere tells why the path of the configuration in force does not lead to it from here:
// the daemon sees other files, as it does in a container. It returns "" where it is the daemon's
// file, where there is no daemon, and where nothing speaks against it.
func elsewhere(pinDir, path string) string {
	owned, err := pins.Owned(pinDir)
	if err != nil || !owned {
		return ""
	}
	holder, err := pins.Holder(pinDir)
	if err != nil {
		return ""
	}
	here, err := os.Stat(path)
	if holder == 0 {
		if !errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		return "it is not here, and the daemon is in a PID namespace that cannot be looked into from here"
	}
	theirs := fmt.Sprintf("/proc/%d/root%s", holder, path)
	there, missing := os.Stat(theirs)
	if missing != nil || err == nil && os.SameFile(here, there) {
		return ""
	}
	return fmt.Sprintf("it is not the file of the daemon, pid %d, which runs in another mount namespace and has %s", holder, theirs)
}

// unitCGroup is what systemd calls the control group of the unit.
const unitCGroup = "/replypath.service"

// daemonOf returns who holds a pin directory, nil for nobody. Its process is asked
// of the kernel alone: what it wrote down may be the number of another one here.
func daemonOf(pinDir string) (*snapshot.Daemon, error) {
	owned, err := pins.Owned(pinDir)
	if errors.Is(err, pins.ErrNone) { // it was removed a moment ago
		return nil, nil
	}
	if err != nil || !owned {
		return nil, err
	}
	pid, err := pins.Holder(pinDir)
	if err != nil || pid == 0 {
		return &snapshot.Daemon{}, nil // it is there, whoever it is
	}
	groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // one that cannot be read is not known to be the unit's
	return &snapshot.Daemon{PID: pid, Unit: inUnit(string(groups))}, nil
}

// isTakenAway tells that the pins are gone or others' since a snapshot, or are held by a process that is no daemon: who takes a
// datapath away names none in the journal before it begins. What is removed last is looked at last.
func isTakenAway(pinDir string, since *snapshot.InForce) bool {
	owned, err := pins.Owned(pinDir)
	journal, err2 := pins.ReadJournal(pinDir)
	if err := cmp.Or(err, err2); err != nil {
		return errors.Is(err, pins.ErrNone)
	}
	return owned && journal.PID == 0 || !journal.LoadedAt.Equal(since.LoadedAt)
}

// inUnit reads what /proc/PID/cgroup says, a hierarchy a line (cgroups(7)).
func inUnit(groups string) bool {
	return strings.Contains(groups+"\n", unitCGroup+"\n")
}

// start looks at what a start takes, whether there has been one or not. What is wrong with
// it is a finding, and keeps nothing else from being looked at. What the kernel can do is not known
// to who may not load programs.
func (g *gatherer) start() (err error) {
	s := &g.host.Start
	if s.Rights, err = kernel.MissingRights(); err != nil {
		return err
	}
	keepsFromLoading := func(r kernel.Right) bool { return r.Name() != "CAP_PERFMON" }
	g.host.HasUnit = hasUnit()
	s.Place, s.BTF = pins.CheckPlace(g.PinDir), kernel.CheckBTF()
	switch {
	case g.journal != nil:
		s.Features = g.journal.Features
	case slices.ContainsFunc(s.Rights, keepsFromLoading):
		g.host.Unread[snapshot.PartKernel] = "CAP_BPF and CAP_NET_ADMIN"
	default:
		s.Features, s.Programs = probe(s.BTF != nil)
	}
	return nil
}

// hasUnit tells whether systemd runs (sd_booted(3)) and has the unit that packages install, or somebody made.
func hasUnit() bool {
	if _, err := os.Lstat("/run/systemd/system"); err != nil {
		return false
	}
	isThere := func(dir string) bool { _, err := os.Stat(dir + "/systemd/system/replypath.service"); return err == nil }
	return slices.ContainsFunc([]string{"/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"}, isThere)
}

// probe asks the kernel. Without BTF, by which some features are found, it only asks whether it loads programs.
func probe(withoutBTF bool) ([]pins.FeatureRecord, error) {
	if err := kernel.CheckCall(); err != nil {
		return nil, err
	}
	// Before 5.11 maps count as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	if withoutBTF {
		return nil, kernel.CheckPrograms()
	}
	k, err := kernel.Probe()
	if err != nil {
		return nil, err
	}
	return k.Records(k.TCX), nil
}
