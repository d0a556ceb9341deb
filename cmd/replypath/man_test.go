package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The manual pages in packaging are those of this source.
func TestManual(t *testing.T) {
	dir := t.TempDir()
	if code := run(t.Context(), []string{"man", "--dir", dir}, io.Discard, t.Output(), fakeHost()); code != exitDone {
		t.Fatalf("exit code %d", code)
	}
	const packaged = "../../packaging/man"
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
