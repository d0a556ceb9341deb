// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed modules.txt
var moduleList string

//go:embed init.sh
var initScript string

// ownBusybox is that of this machine.
const ownBusybox = "/bin/busybox"

// kernel is one that is ready to boot.
type kernel struct{ dir, release string }

func (k *kernel) image() string { return filepath.Join(k.dir, "vmlinuz") }

// base is the beginning of an initial file system: a shell, and the modules.
func (k *kernel) base() string { return filepath.Join(k.dir, "base.cpio") }

func openKernel(dir string) (*kernel, error) {
	release, err := os.ReadFile(filepath.Join(dir, "release"))
	return &kernel{dir: dir, release: string(release)}, err
}

// fetchKernel fetches the kernel of a suite and keeps what is needed of it.
func (c *cache) fetchKernel(ctx context.Context, from *source, busybox, dir string) error {
	all := filepath.Join(dir, "all")
	if err := unpackKernel(ctx, c.archives[from.machine], from, all); err != nil {
		return err
	}
	release, modules, err := findModules(all)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "release"), []byte(release), 0o644); err != nil {
		return err
	}
	if err := moveImage(all, release, filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	base := &stage{filepath.Join(dir, "base")}
	if err := writeBase(ctx, base, busybox); err != nil {
		return err
	}
	if err := keepModules(ctx, release, modules, base.dir); err != nil {
		return err
	}
	if err := base.pack(ctx, filepath.Join(dir, "base.cpio")); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(all), os.RemoveAll(base.dir))
}

// parts are how the names of the packages begin that a kernel consists of: one, or since 7.0 several.
var parts = []string{"linux-image-", "linux-base-", "linux-binary-", "linux-modules-"}

// unpackKernel unpacks the packages that the suite's kernel consists of.
func unpackKernel(ctx context.Context, a *archive, from *source, dir string) error {
	names, err := a.needed(ctx, from.suite, from.machine.metaPackage)
	if err != nil {
		return err
	}
	isPart := func(name string) bool {
		return name != from.machine.metaPackage && slices.ContainsFunc(parts, func(part string) bool { return strings.HasPrefix(name, part) })
	}
	if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, parts[0]+from.number+".") }) {
		return fmt.Errorf("%s has another version by now: %q", from.suite, slices.DeleteFunc(names, func(name string) bool { return !isPart(name) }))
	}
	for _, name := range names {
		if isPart(name) {
			if err := a.unpack(ctx, from.suite, name, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// findModules returns the release of an unpacked kernel and where its modules are.
func findModules(root string) (release, dir string, err error) {
	for _, parent := range []string{"usr/lib/modules", "lib/modules"} {
		dirs, err := filepath.Glob(filepath.Join(root, parent, "*"))
		if err != nil {
			return "", "", err
		}
		if len(dirs) == 1 {
			return filepath.Base(dirs[0]), dirs[0], nil
		}
	}
	return "", "", errors.New("its packages hold no modules")
}

func moveImage(root, release, to string) error {
	for _, name := range []string{"boot/vmlinuz-" + release, "usr/lib/modules/" + release + "/vmlinuz"} {
		err := os.Rename(filepath.Join(root, name), to)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errors.New("its packages hold no image")
}

// keepModules copies the wanted modules, and those that they depend on, into a file system of their own, unpacked.
func keepModules(ctx context.Context, release, from, root string) error {
	to := filepath.Join(root, "lib/modules", release)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	// depmod and modprobe want the directory at this place.
	all := filepath.Join(root, "all")
	if err := os.MkdirAll(filepath.Join(all, "lib/modules"), 0o755); err != nil {
		return err
	}
	if err := os.Rename(from, filepath.Join(all, "lib/modules", release)); err != nil {
		return err
	}
	if _, err := output(exec.CommandContext(ctx, "depmod", "-b", all, release)); err != nil {
		return err
	}
	for _, name := range listed(moduleList) {
		files, err := moduleFiles(ctx, all, release, name)
		if err != nil {
			return err
		}
		for _, file := range files {
			if err := keepModule(ctx, filepath.Join(all, "lib/modules", release), file, to); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		if err := os.Rename(filepath.Join(all, "lib/modules", release, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(all); err != nil {
		return err
	}
	_, err := output(exec.CommandContext(ctx, "depmod", "-b", root, release))
	return err
}

// moduleFiles returns the files of a module and of those that it depends on. A
// module that is built in, or that the kernel does not have, has none.
func moduleFiles(ctx context.Context, root, release, name string) ([]string, error) {
	c := exec.CommandContext(ctx, "modprobe", "-d", root, "-S", release, "--show-depends", name)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		if strings.Contains(stderr.String(), "not found in directory") {
			fmt.Printf("Linux %s has no module %s\n", release, name)
			return nil, nil
		}
		return nil, fmt.Errorf("modules of %s: %w: %s", name, err, &stderr)
	}
	var files []string
	for line := range strings.Lines(stdout.String()) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "insmod" {
			files = append(files, fields[1])
		}
	}
	return files, nil
}

// keepModule copies a module's file, unpacked: busybox cannot unpack all.
func keepModule(ctx context.Context, from, file, to string) error {
	name, err := filepath.Rel(from, file)
	if err != nil {
		return err
	}
	target := filepath.Join(to, name)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if !strings.HasSuffix(name, ".xz") {
		return copyFile(target, file)
	}
	text, err := output(exec.CommandContext(ctx, "xz", "--decompress", "--stdout", file))
	if err != nil {
		return err
	}
	return os.WriteFile(strings.TrimSuffix(target, ".xz"), []byte(text), 0o644)
}

func copyFile(to, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}

// listed returns the words of an embedded list, one on each line, with comments.
func listed(text string) []string {
	var words []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words = append(words, strings.Fields(line)...)
	}
	return words
}

// writeBase begins an initial file system.
func writeBase(ctx context.Context, s *stage, busybox string) error {
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(s.path("usr/"+name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+name, s.path(name)); err != nil {
			return err
		}
	}
	return errors.Join(s.install(ctx, "usr/bin/busybox", busybox), os.Symlink("/usr/bin/busybox", s.path("usr/sbin/modprobe")))
}
