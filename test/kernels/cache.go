// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// source is where in Debian a kernel comes from.
type source struct {
	version string // what it is asked for by
	number  string // of its version, as Debian's packages have it
	suite   string
	machine *architecture
}

// sources are the kernels that can be asked for.
var sources = []source{
	{"5.10", "5.10", "bullseye", amd64},
	{"6.1", "6.1", "bookworm", amd64},
	{"6.12", "6.12", "trixie", amd64},
	{"7.2", "7.2", "sid", amd64},
	{"6.1-arm64", "6.1", "bookworm", arm64},
	{"6.12-arm64", "6.12", "trixie", arm64},
}

// The emulator is newer than bookworm's own, which now and then corrupts the
// flags of a guest (cmpxchg16b under emulation).
const emulatorSuite = "bookworm-backports"

func versions() []string {
	var names []string
	for _, s := range sources {
		names = append(names, s.version)
	}
	return names
}

// archiveSuites are the suites that packages of an architecture come from.
func archiveSuites(architecture string) []string {
	suites := []string{emulatorSuite}
	for _, s := range sources {
		if s.machine.name == architecture {
			suites = append(suites, s.suite)
		}
	}
	return suites
}

// cache is the directory of what was fetched. Several processes may use it. What is deleted there is fetched anew.
type cache struct {
	dir      string
	archives map[*architecture]*archive
}

// openCache opens the directory, the user's if it is empty.
func openCache(dir string) (*cache, error) {
	if dir == "" {
		parent, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(parent, "replypath", "kernels")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c := &cache{dir: dir, archives: make(map[*architecture]*archive)}
	for _, a := range []*architecture{amd64, arm64} {
		c.archives[a] = &archive{dir: filepath.Join(dir, "apt-"+a.name), architecture: a.name}
	}
	return c, os.MkdirAll(dir, 0o755)
}

// lock waits until no other process fetches anything, and returns what lets the next one.
func (c *cache) lock() (unlock func() error, err error) {
	f, err := os.Create(filepath.Join(c.dir, "lock"))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f.Close, nil
}

// directory returns a directory of the cache, made by fill from an archive where it is not there
// yet. It appears under its name only when fill was successful.
func (c *cache) directory(ctx context.Context, from *archive, name string, fill func(dir string) error) (dir string, err error) {
	unlock, err := c.lock()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	dir = filepath.Join(c.dir, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := from.open(ctx); err != nil {
		return "", err
	}
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return "", err
	}
	if err := fill(partial); err != nil {
		return "", errors.Join(err, os.RemoveAll(partial))
	}
	return dir, os.Rename(partial, dir)
}

// emulator returns the directory of QEMU for an architecture; it runs on this machine's own.
func (c *cache) emulator(ctx context.Context, a *architecture) (string, error) {
	from := c.archives[amd64]
	return c.directory(ctx, from, a.emulator, func(dir string) error {
		for _, name := range a.emulatorPackages {
			if err := from.unpack(ctx, emulatorSuite, name, dir); err != nil {
				return err
			}
		}
		return nil
	})
}

// userland returns the directory of Debian's programs for an architecture that is not this machine's.
func (c *cache) userland(ctx context.Context, a *architecture) (string, error) {
	from := c.archives[a]
	name := fmt.Sprintf("userland-%s-%.8x", a.name, sha256.Sum256([]byte(packageList)))
	return c.directory(ctx, from, name, func(dir string) error { return from.unpackAll(ctx, userlandSuite, listed(packageList), dir) })
}

// find returns the source of a kernel.
func find(version string) (*source, error) {
	for n := range sources {
		if sources[n].version == version {
			return &sources[n], nil
		}
	}
	return nil, fmt.Errorf("there is none: choose of %s", strings.Join(versions(), ", "))
}

// kernel returns the kernel of a source, which begins with this busybox.
func (c *cache) kernel(ctx context.Context, from *source, busybox string) (*kernel, error) {
	// What is kept depends on the list of modules.
	name := fmt.Sprintf("linux-%s-%.8x", from.version, sha256.Sum256([]byte(moduleList)))
	dir, err := c.directory(ctx, c.archives[from.machine], name, func(dir string) error {
		return c.fetchKernel(ctx, from, busybox, dir)
	})
	if err != nil {
		return nil, err
	}
	return openKernel(dir)
}
