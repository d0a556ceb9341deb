// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	keyring     = "/usr/share/keyrings/debian-archive-keyring.gpg"
	hostSources = "/etc/apt/sources.list.d/debian.sources"
	usualMirror = "http://deb.debian.org/debian"
)

// archive is Debian's archive as a private apt sees it: with sources, lists and downloads in a directory of its own.
type archive struct {
	dir          string
	architecture string
	updated      bool
}

// open makes the directory and reads the package lists once for each process.
func (a *archive) open(ctx context.Context) error {
	if a.updated {
		return nil
	}
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("the keys of Debian: %w: install debian-archive-keyring", err)
	}
	mirror, err := findMirror()
	if err != nil {
		return err
	}
	var sources strings.Builder
	for _, suite := range archiveSuites(a.architecture) {
		fmt.Fprintf(&sources, "deb [arch=%s signed-by=%s] %s %s main\n", a.architecture, keyring, mirror, suite)
	}
	if err := os.WriteFile(a.path("sources.list"), []byte(sources.String()), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(a.path("apt.conf"), []byte(a.config()), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(a.path("status"), nil, 0o644); err != nil { // nothing is installed
		return err
	}
	fmt.Printf("reading Debian's package lists from %s\n", mirror)
	if _, err := a.run(ctx, "apt-get", "-q", "update"); err != nil {
		return err
	}
	a.updated = true
	return nil
}

func (a *archive) path(name string) string { return filepath.Join(a.dir, name) }

func (a *archive) config() string {
	return fmt.Sprintf(`Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "%[1]s/lists";
Dir::Cache "%[1]s/cache";
Dir::State::status "%[1]s/status";
APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
`, a.dir, a.architecture)
}

// run runs a program of apt on the private archive.
func (a *archive) run(ctx context.Context, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), "APT_CONFIG="+a.path("apt.conf"), "LC_ALL=C")
	c.Dir = a.path("cache/archives")
	return output(c)
}

// findMirror returns the one that the machine's own sources name first.
func findMirror() (string, error) {
	text, err := os.ReadFile(hostSources)
	if errors.Is(err, os.ErrNotExist) {
		return usualMirror, nil
	}
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if uris, ok := strings.CutPrefix(strings.TrimSpace(line), "URIs:"); ok && strings.TrimSpace(uris) != "" {
			return strings.Fields(uris)[0], nil
		}
	}
	return usualMirror, nil
}

// needed names the packages that come with one of a suite.
func (a *archive) needed(ctx context.Context, suite, name string) (names []string, err error) {
	text, err := a.run(ctx, "apt-get", "-s", "-q", "--no-install-recommends", "-t", suite, "install", name)
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "Inst" {
			names = append(names, fields[1])
		}
	}
	return names, err
}

// unpack fetches a package of a suite and unpacks it into a directory.
func (a *archive) unpack(ctx context.Context, suite, name, dir string) error {
	fmt.Printf("fetching %s of Debian %s\n", name, suite)
	if _, err := a.run(ctx, "apt-get", "-q", "download", name+"/"+suite); err != nil {
		return err
	}
	return a.extract(ctx, dir)
}

// unpackAll fetches packages of a suite, with all that they depend on, and unpacks them into a directory.
func (a *archive) unpackAll(ctx context.Context, suite string, names []string, dir string) error {
	fmt.Printf("fetching %d packages of Debian %s for %s, and what they depend on\n", len(names), suite, a.architecture)
	args := []string{"-q", "-y", "--no-install-recommends", "--download-only", "-t", suite, "install"}
	if _, err := a.run(ctx, "apt-get", append(args, names...)...); err != nil {
		return err
	}
	return a.extract(ctx, dir)
}

// extract unpacks what was fetched into a directory. apt has verified it before it is looked at.
func (a *archive) extract(ctx context.Context, dir string) error {
	files, err := filepath.Glob(a.path("cache/archives/*.deb"))
	if err != nil || len(files) == 0 {
		return errors.Join(err, fmt.Errorf("apt has left no package in %s", a.path("cache/archives")))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, file := range files {
		if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "--extract", file, dir)); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// output runs a program and returns what it wrote, or an error that says so.
func output(c *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, bytes.TrimSpace(append(stdout.Bytes(), stderr.Bytes()...)))
	}
	return stdout.String(), nil
}
