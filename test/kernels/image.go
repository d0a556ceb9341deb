// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/cavaliergopher/cpio"
)

// fileArchive writes an archive of files as the kernel unpacks it at its start
// (Documentation/driver-api/early-userspace/buffer-format.rst). The first error is kept and returned by Close.
type fileArchive struct {
	out     *os.File
	w       *cpio.Writer
	written map[string]bool
	err     error
}

func createArchive(name string) (*fileArchive, error) {
	out, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	return &fileArchive{out: out, w: cpio.NewWriter(out), written: make(map[string]bool)}, nil
}

// Close ends the archive, padded so that another can follow.
func (a *fileArchive) Close() error {
	a.keep(a.w.Close())
	size, err := a.out.Seek(0, io.SeekEnd)
	a.keep(err)
	a.keep(a.out.Truncate((size + 511) &^ 511))
	a.keep(a.out.Close())
	return a.err
}

func (a *fileArchive) keep(err error) {
	if a.err == nil {
		a.err = err
	}
}

// entry writes a file unless one of that name was written before. The content of a symbolic link is where it leads.
func (a *fileArchive) entry(name string, mode cpio.FileMode, content []byte) {
	if a.err != nil || a.written[name] {
		return
	}
	a.written[name] = true
	a.keep(a.w.WriteHeader(&cpio.Header{Name: name, Mode: mode, Size: int64(len(content)), Links: 1}))
	if a.err == nil {
		_, err := a.w.Write(content)
		a.keep(err)
	}
}

func (a *fileArchive) directories(names ...string) {
	for _, name := range names {
		a.entry(name, cpio.TypeDir|0o755, nil)
	}
}

// parents writes the directories above a file.
func (a *fileArchive) parents(name string) {
	if dir := path.Dir(name); dir != "." {
		a.parents(dir)
		a.directories(dir)
	}
}

func (a *fileArchive) link(name, to string) {
	a.parents(name)
	a.entry(name, cpio.TypeSymlink|0o777, []byte(to))
}

func (a *fileArchive) text(name, content string, mode fs.FileMode) {
	a.parents(name)
	a.entry(name, cpio.TypeReg|cpio.FileMode(mode.Perm()), []byte(content))
}

// file writes the content of a file of this machine.
func (a *fileArchive) file(name, from string, mode fs.FileMode) {
	content, err := os.ReadFile(from)
	a.keep(err)
	a.text(name, string(content), mode)
}

// tree writes a directory with all that is in it and that wanted, if it is not
// nil, does not refuse by its path below the directory.
func (a *fileArchive) tree(name, from string, wanted func(path string, d fs.DirEntry) bool) {
	a.keep(filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		if wanted != nil && !wanted(below, d) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return a.copy(path.Join(name, below), file, d)
	}))
}

func (a *fileArchive) copy(name, from string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	switch {
	case d.IsDir():
		a.parents(name)
		a.directories(name)
	case info.Mode().IsRegular():
		a.file(name, from, info.Mode())
	case info.Mode().Type() == fs.ModeSymlink:
		to, err := os.Readlink(from)
		if err != nil {
			return err
		}
		a.link(name, to)
	}
	return a.err
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
