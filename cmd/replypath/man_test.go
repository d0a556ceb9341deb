// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"replypath/cmd/replypath/cli"
	"replypath/test/await"
)

// manualDate is shown at the foot of the manual pages. It changes by hand, with their text, so that generating them
// twice gives the same.
var manualDate = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// The manual pages in packaging are those of this source. The test also writes them, with UPDATE_MANUAL: what makes
// them is no part of the program.
func TestManual(t *testing.T) {
	const packaged = "../../packaging/man"
	if os.Getenv("UPDATE_MANUAL") != "" {
		writeManual(t, packaged)
	}
	dir := t.TempDir()
	writeManual(t, dir)
	want, got := pages(t, dir), pages(t, packaged)
	if !slices.Equal(want, got) {
		t.Fatalf("packaging/man holds\n%q\nrather than\n%q\nrun go generate ./cmd/replypath", got, want)
	}
	for _, name := range want {
		if !bytes.Equal(read(t, filepath.Join(dir, name)), read(t, filepath.Join(packaged, name))) {
			t.Errorf("packaging/man/%s is not up to date: run go generate ./cmd/replypath", name)
		}
	}
}

// options are paragraphs as cobra makes them: an option, and its text behind a tab.
var options = regexp.MustCompile(`(?m)^(?:\.PP\n)?(\\fB-.*)\n\t(.*)$`)

func writeManual(t *testing.T, dir string) {
	t.Helper()
	root := newRoot(&cli.App{Stdout: io.Discard, Stderr: io.Discard}, fakeHost())
	eachCommand(root, func(c *cobra.Command) { c.Long = manualText(longText(c)) })
	await.Must(t, doc.GenManTreeFromOpts(root, doc.GenManTreeOptions{
		Path:             dir,
		CommandSeparator: "-",
		Header: &doc.GenManHeader{
			Section: "8", Date: &manualDate, Source: "replypath", Manual: "System Administration",
		},
	}))
	for _, name := range pages(t, dir) {
		page := options.ReplaceAll(read(t, filepath.Join(dir, name)), []byte(".TP\n$1\n$2"))
		await.Must(t, os.WriteFile(filepath.Join(dir, name), page, 0o644))
	}
	title := fmt.Sprintf("%% \"REPLYPATH.YAML\" \"5\" \"%s\" \"replypath\" \"File Formats\"\n", manualDate.Format("Jan 2006"))
	await.Must(t, os.WriteFile(filepath.Join(dir, "replypath.yaml.5"), md2man.Render([]byte(title+yamlManual())), 0o644))
}

// eachCommand calls f for a command and those below it that users see.
func eachCommand(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			eachCommand(sub, f)
		}
	}
}

// longText is the help text of a command, and the keys of what it writes as JSON.
func longText(c *cobra.Command) string {
	if keys, is := jsonKeys[c.CommandPath()]; is {
		return cmp.Or(c.Long, c.Short+".") + "\n\n" + keys
	}
	return c.Long
}

// columns are the two of a list in a help text.
var columns = regexp.MustCompile(`^  (\S.*?) {2,}(\S.*)$`)

// manualText returns a help text in Markdown. Lists of two columns become lists of definitions, with an item for each
// line that is indented by two spaces; a line that is indented by more goes on with the item.
func manualText(help string) string {
	var b strings.Builder
	inList := false
	for line := range strings.Lines(help) {
		line = strings.TrimRight(line, "\n")
		item := columns.FindStringSubmatch(line)
		switch {
		case item != nil:
			fmt.Fprintf(&b, "\n\n**%s**\n: %s", escapeMarkdown(item[1]), item[2])
			inList = true
		case inList && strings.HasPrefix(line, "   "):
			b.WriteString(" " + strings.TrimSpace(line))
		case inList:
			b.WriteString("\n\n" + line + "\n")
			inList = false
		default:
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// TestManualProse writes what help and man pages say as Markdown, where REPLYPATH_PROSE names a directory for it: make
// lint-docs has it read.
func TestManualProse(t *testing.T) {
	dir := os.Getenv("REPLYPATH_PROSE")
	if dir == "" {
		t.Skip("REPLYPATH_PROSE names no directory")
	}
	root := newRoot(&cli.App{Stdout: io.Discard, Stderr: io.Discard}, fakeHost())
	eachCommand(root, func(c *cobra.Command) {
		prose := fmt.Sprintf("# %s\n\n%s.\n\n%s\n", c.CommandPath(), c.Short, manualText(longText(c)))
		c.LocalFlags().VisitAll(func(f *pflag.Flag) { prose += fmt.Sprintf("\n- `--%s` %s\n", f.Name, f.Usage) })
		writeProse(t, dir, strings.ReplaceAll(c.CommandPath(), " ", "-"), prose)
	})
	prose := yamlHead
	for _, key := range yamlReference() {
		prose += fmt.Sprintf("**%s**\n\n%s.\n\nDefault: %s.\n\n%s\n\n", key.Path, key.Values, escapeMarkdown(key.Default), key.Text)
	}
	writeProse(t, dir, "replypath.yaml", prose)
}

func writeProse(t *testing.T, dir, name, prose string) {
	t.Helper()
	// A list of definitions is no paragraph with what it defines.
	prose = strings.ReplaceAll(prose, "\n: ", "\n\n")
	await.Must(t, os.WriteFile(filepath.Join(dir, name+".md"), []byte(prose), 0o644))
}

func pages(t *testing.T, dir string) []string {
	t.Helper()
	entries := await.Must1[[]os.DirEntry](t)(os.ReadDir(dir))
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data := await.Must1[[]byte](t)(os.ReadFile(path))
	return data
}
