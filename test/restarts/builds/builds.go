// SPDX-License-Identifier: Apache-2.0

// Package builds makes other builds of the program, for tests that change from one to another.
package builds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Build is the program made of sources that are changed here and there.
type Build struct {
	Name string
	// Variable names the environment variable with the path of a binary that was
	// built before, for machines without a compiler.
	Variable string
	changes  []change
}

// change replaces a text in a file of bpf/src.
type change struct{ file, from, to string }

var (
	// OtherPrograms counts one event more: other instructions, and a map of counters that is larger.
	OtherPrograms = Build{"other-programs", "REPLYPATH_TEST_OTHER_PROGRAMS", []change{
		{"types.h", "	EVENT_END,\n", "	EVENT_OF_ANOTHER_BUILD,\n	EVENT_END,\n"},
		{"replypath.c", "	return ingress(skb, ETH_HLEN);\n", "	count_event(EVENT_OF_ANOTHER_BUILD);\n	return ingress(skb, ETH_HLEN);\n"},
	}}
	// OtherLayout has larger flows.
	OtherLayout = Build{"other-layout", "REPLYPATH_TEST_OTHER_LAYOUT", []change{
		{"types.h", "	LAYOUT_VERSION = ", "	LAYOUT_VERSION = 100 + "},
		{"types.h", "	__u64 corrected;", "	__u64 of_another_build;\n	__u64 corrected;"},
	}}
)

// Make builds the program of the tree in source, at path. It calls itself by version and its name.
func (b *Build) Make(ctx context.Context, source, path, version string) error {
	dir, err := os.MkdirTemp("", "replypath-"+b.Name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(filepath.Join(dir, "src"), os.DirFS(filepath.Join(source, "bpf", "src"))); err != nil {
		return err
	}
	for _, c := range b.changes {
		if err := c.apply(filepath.Join(dir, "src")); err != nil {
			return err
		}
	}
	if err := compilePrograms(ctx, source, dir); err != nil {
		return err
	}
	return buildWith(ctx, source, dir, path, version+"-"+b.Name)
}

func (c *change) apply(dir string) error {
	path := filepath.Join(dir, c.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed := strings.Replace(string(text), c.from, c.to, 1)
	if changed == string(text) {
		return fmt.Errorf("%s has no %q", path, c.from)
	}
	return os.WriteFile(path, []byte(changed), 0o600)
}

// compilePrograms does what `go generate ./bpf` does, with the sources below dir, and leaves the result in dir.
func compilePrograms(ctx context.Context, source, dir string) error {
	const mark = "//go:generate go tool "
	text, err := os.ReadFile(filepath.Join(source, "bpf", "bpf.go"))
	if err != nil {
		return err
	}
	_, line, found := strings.Cut(string(text), mark)
	if !found {
		return errors.New("bpf/bpf.go has no line that generates")
	}
	line, _, _ = strings.Cut(line, "\n")
	args := []string{"tool"}
	for _, word := range strings.Fields(line) {
		switch word {
		case "bpf2go":
			args = append(args, word, "-output-dir", dir)
		case "bpfel,bpfeb":
			args = append(args, "bpfel") // what tests run on
		case "src/replypath.c":
			args = append(args, filepath.Join(dir, word))
		default:
			args = append(args, word)
		}
	}
	return goCommand(ctx, filepath.Join(source, "bpf"), args...)
}

// buildWith builds the program with the generated files in dir in the place of those of the tree.
func buildWith(ctx context.Context, source, dir, path, version string) error {
	generated, err := filepath.Glob(filepath.Join(dir, "datapath_*"))
	if err != nil || len(generated) == 0 {
		return errors.Join(err, fs.ErrNotExist)
	}
	root, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	replace := make(map[string]string)
	for _, file := range generated {
		replace[filepath.Join(root, "bpf", filepath.Base(file))] = file
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := writeOverlay(file, replace); err != nil {
		return err
	}
	shapes := filepath.Join(dir, "shapes.go") // which are made of the others
	err = goCommand(ctx, source, "run", "-trimpath", "-buildvcs=false", "-overlay", file, "./bpf/internal/shapes", shapes)
	if err != nil {
		return err
	}
	replace[filepath.Join(root, "bpf", "shapes.go")] = shapes
	if err := writeOverlay(file, replace); err != nil {
		return err
	}
	return goCommand(ctx, source, "build", "-trimpath", "-buildvcs=false", "-overlay", file,
		"-ldflags", "-s -w -X main.version="+version, "-o", path, "./cmd/replypath")
}

func writeOverlay(path string, replace map[string]string) error {
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	return os.WriteFile(path, overlay, 0o600)
}

func goCommand(ctx context.Context, dir string, args ...string) error {
	c := exec.CommandContext(ctx, "go", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, output)
	}
	return nil
}
