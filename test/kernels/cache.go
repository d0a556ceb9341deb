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
type source struct{ version, suite string }

// sources are the kernels that can be asked for.
var sources = []source{
	{"5.10", "bullseye"},
	{"6.1", "bookworm"},
	{"6.12", "trixie"},
	{"7.2", "sid"},
}

// The emulator is newer than bookworm's own, which now and then corrupts the
// flags of a guest (cmpxchg16b under emulation).
const (
	emulatorSuite = "bookworm-backports"
	metaPackage   = "linux-image-cloud-amd64"
)

var emulatorPackages = []string{"qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"}

func versions() []string {
	var names []string
	for _, s := range sources {
		names = append(names, s.version)
	}
	return names
}

func archiveSuites() []string {
	suites := []string{emulatorSuite}
	for _, s := range sources {
		suites = append(suites, s.suite)
	}
	return suites
}

// cache is the directory of what was fetched. Several processes may use it.
type cache struct {
	dir     string
	update  bool
	archive archive
	fetched map[string]bool // directories that this process has made
}

// openCache opens the directory, the user's if it is empty.
func openCache(dir string, update bool) (*cache, error) {
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
	return &cache{dir: dir, update: update, archive: archive{dir: filepath.Join(dir, "apt")},
		fetched: make(map[string]bool)}, os.MkdirAll(dir, 0o755)
}

// lock waits until no other process fetches anything, and returns what lets the
// next one.
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

// directory returns a directory of the cache, made by fill where it is not there
// yet. It appears under its name only when fill was successful.
func (c *cache) directory(ctx context.Context, name string, fill func(dir string) error) (dir string, err error) {
	unlock, err := c.lock()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	dir = filepath.Join(c.dir, name)
	if _, err := os.Stat(dir); err == nil && (!c.update || c.fetched[name]) {
		return dir, nil
	}
	if err := c.archive.open(ctx); err != nil {
		return "", err
	}
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return "", err
	}
	if err := fill(partial); err != nil {
		return "", errors.Join(err, os.RemoveAll(partial))
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	c.fetched[name] = true
	return dir, os.Rename(partial, dir)
}

// emulator returns the directory of QEMU.
func (c *cache) emulator(ctx context.Context) (string, error) {
	return c.directory(ctx, "qemu", func(dir string) error {
		for _, name := range emulatorPackages {
			if _, err := c.archive.unpack(ctx, emulatorSuite, name, dir); err != nil {
				return err
			}
		}
		return nil
	})
}

// kernel returns the kernel of a version.
func (c *cache) kernel(ctx context.Context, version string) (*kernel, error) {
	var from *source
	for _, s := range sources {
		if s.version == version {
			from = &s
		}
	}
	if from == nil {
		return nil, fmt.Errorf("there is none: choose of %s", strings.Join(versions(), ", "))
	}
	// What is kept depends on the list of modules.
	name := fmt.Sprintf("linux-%s-%.8x", version, sha256.Sum256([]byte(moduleList)))
	dir, err := c.directory(ctx, name, func(dir string) error { return c.fetchKernel(ctx, *from, dir) })
	if err != nil {
		return nil, err
	}
	return openKernel(dir)
}
