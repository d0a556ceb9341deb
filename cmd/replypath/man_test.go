// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra/doc"

	"replypath/cmd/replypath/cli"
)

// manualDate is shown at the foot of the manual pages. It changes by hand, with
// their text, so that generating them twice gives the same.
var manualDate = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// The manual pages in packaging are those of this source. The test also writes
// them, with UPDATE_MANUAL: what makes them is no part of the program.
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

func writeManual(t *testing.T, dir string) {
	t.Helper()
	err := doc.GenManTreeFromOpts(newRoot(&cli.App{Stdout: io.Discard, Stderr: io.Discard}, fakeHost()), doc.GenManTreeOptions{
		Path:             dir,
		CommandSeparator: "-",
		Header: &doc.GenManHeader{
			Section: "8", Date: &manualDate, Source: "replypath", Manual: "System Administration",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	title := fmt.Sprintf("%% \"REPLYPATH.YAML\" \"5\" \"%s\" \"replypath\" \"File Formats\"\n", manualDate.Format("Jan 2006"))
	if err := os.WriteFile(filepath.Join(dir, "replypath.yaml.5"), md2man.Render([]byte(title+yamlManual())), 0o644); err != nil {
		t.Fatal(err)
	}
}

func pages(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
