// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"replypath/loader/config"
	"replypath/loader/doctor/snapshot"
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
