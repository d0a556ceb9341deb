// SPDX-License-Identifier: Apache-2.0

// Package builds makes other builds of the program, for tests that change from one to another.
package builds

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
		{"types.h", "	__u8 attempt; /* enum attempt */", "	__u8 attempt; /* enum attempt */\n	__u64 of_another_build;"},
	}}
)

// Make builds the program of a copy of the tree in source, at path. It calls itself by version and its name.
func (b *Build) Make(ctx context.Context, source, path, version string) error {
	dir, err := os.MkdirTemp("", "replypath-"+b.Name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tree, err := filepath.Glob(filepath.Join(source, "*"))
	if err != nil {
		return err
	}
	tree = slices.DeleteFunc(tree, func(name string) bool { return slices.Contains([]string{"bin", "build"}, filepath.Base(name)) })
	if err := run(ctx, "", "cp", append([]string{"-a", "-t", dir}, tree...)...); err != nil {
		return err
	}
	for _, c := range b.changes {
		if err := c.apply(filepath.Join(dir, "bpf", "src")); err != nil {
			return err
		}
	}
	if err := run(ctx, dir, "go", "generate", "./bpf"); err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	return run(ctx, dir, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+version+"-"+b.Name,
		"-o", path, "./cmd/replypath")
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

func run(ctx context.Context, dir, program string, args ...string) error {
	c := exec.CommandContext(ctx, program, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", program, args[0], err, output)
	}
	return nil
}
