// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// stage is a directory tree that becomes an archive, as the kernel unpacks it at its start
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type stage struct{ dir string }

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// text writes a file.
func (s *stage) text(name, content string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(s.path(name), []byte(content), mode)
}

// install copies the content of a program or library of this machine.
func (s *stage) install(ctx context.Context, name, from string) error {
	_, err := output(exec.CommandContext(ctx, "install", "-D", "-m", "755", from, s.path(name)))
	return err
}

// copy copies files and directories, symbolic links as such, into a directory. What is there already stays.
func (s *stage) copy(ctx context.Context, into string, from ...string) error {
	if err := os.MkdirAll(s.path(into), 0o755); err != nil {
		return err
	}
	_, err := output(exec.CommandContext(ctx, "cp", append([]string{"-a", "-n", "-t", s.path(into)}, from...)...))
	return err
}

// pack makes the archive.
func (s *stage) pack(ctx context.Context, file string) error {
	_, err := output(exec.CommandContext(ctx, "sh", "-ec", `cd "$0"; find . | busybox cpio -o -H newc >"$1"`, s.dir, file))
	return err
}

// concatenate joins archives: the kernel unpacks one after the other.
func concatenate(to string, from ...string) (err error) {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for _, name := range from {
		in, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		if err = errors.Join(err, in.Close()); err != nil {
			return err
		}
	}
	return nil
}
