// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed tools.txt
var toolList string

//go:embed data.txt
var dataList string

// buildPayload builds what is the same on every kernel of an architecture and returns the archive's path: the product, the
// tests with their source tree, the tools: of this machine, or of a userland where that is not empty.
func buildPayload(ctx context.Context, work string, suites []suite, kind *architecture, userland string) (string, error) {
	if err := compile(ctx, work, suites, kind); err != nil {
		return "", err
	}
	file := filepath.Join(work, "payload.cpio")
	a, err := createArchive(file)
	if err != nil {
		return "", err
	}
	a.text("init", initScript, 0o755)
	a.tree("tests", filepath.Join(work, "tests"), nil)
	a.tree("src", ".", isSource)
	a.file("src/bin/replypath", filepath.Join(work, "replypath"), 0o755)
	a.text("etc/machine-id", machineID, 0o444)
	if kind.foreign {
		err = addUserland(a, userland)
	} else {
		err = addOwn(ctx, a, suites)
	}
	if closeErr := a.Close(); err == nil {
		err = closeErr
	}
	return file, err
}

// addOwn adds what suites need of this machine.
func addOwn(ctx context.Context, a *fileArchive, suites []suite) error {
	for _, name := range listed(dataList) {
		a.tree(strings.TrimPrefix(name, "/"), name, nil)
	}
	tools := listed(toolList)
	for _, s := range suites {
		tools = append(tools, s.tools...)
	}
	return addTools(ctx, a, tools)
}

// addUserland adds what was unpacked of another architecture's packages, but for what is only read by people.
func addUserland(a *fileArchive, root string) error {
	for _, name := range []string{"bin", "sbin", "lib"} { // links into /usr in the virtual machine
		a.tree("usr/"+name, filepath.Join(root, name), nil)
	}
	for _, name := range []string{"usr/bin", "usr/sbin", "usr/lib", "etc"} {
		a.tree(name, filepath.Join(root, name), nil)
	}
	for _, name := range []string{"etc/passwd", "etc/group"} { // which a package's script makes
		a.file(name, "/"+name, 0o644)
	}
	return a.err
}

// buildRunList makes an archive of the list of what is run on a kernel, and returns its path.
func buildRunList(work, version string, suites []suite, short bool) (string, error) {
	var text strings.Builder
	for _, s := range suitesOn(version, suites) {
		text.WriteString(s.line(short))
	}
	file := filepath.Join(work, "run-"+version+".cpio")
	a, err := createArchive(file)
	if err != nil {
		return "", err
	}
	a.text("run.list", text.String(), 0o644)
	return file, a.Close()
}

// compile builds the product and the test binaries, which need no library.
func compile(ctx context.Context, work string, suites []suite, kind *architecture) error {
	if err := os.Mkdir(filepath.Join(work, "tests"), 0o755); err != nil { // which may stay empty
		return err
	}
	commands := [][]string{{"build", "-o", filepath.Join(work, "replypath"),
		"-ldflags", "-s -w -X main.version=" + productVersion, "./cmd/replypath"}}
	seen := make(map[string]bool)
	for _, s := range suites {
		if s.program != "" {
			commands = append(commands, []string{"build", "-ldflags", "-s -w", "-o", filepath.Join(work, "tests", s.name), "./" + s.program})
		}
		if s.pkg == "" || seen[s.pkg] {
			continue
		}
		seen[s.pkg] = true
		commands = append(commands, []string{"test", "-c", "-ldflags", "-s -w",
			"-o", filepath.Join(work, s.binary()), "./" + s.pkg})
	}
	for _, args := range commands {
		c := exec.CommandContext(ctx, "go", append([]string{args[0], "-trimpath", "-buildvcs=false"}, args[1:]...)...)
		c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+kind.name)
		if _, err := output(c); err != nil {
			return err
		}
	}
	return compileOthers(ctx, work, suites)
}

// compileOthers builds the product otherwise, for the suites that need that.
func compileOthers(ctx context.Context, work string, suites []suite) error {
	for _, s := range suites {
		for _, b := range s.builds {
			if err := b.Make(ctx, ".", filepath.Join(work, "tests", b.Name), productVersion); err != nil {
				return fmt.Errorf("build %s: %w", b.Name, err)
			}
		}
	}
	return nil
}

// machineID is what systemd's programs identify the virtual machine by.
const machineID = "00000000000000000000000000000001\n"

// productVersion is what the tests expect of a binary that was built for them.
const productVersion = "0.0.0-test"

// isSource leaves out what is not the project's.
func isSource(path string, _ fs.DirEntry) bool {
	switch path {
	case ".git", "bin", "build":
		return false
	}
	return true
}

// addTools adds programs of this machine, with the libraries that they need.
func addTools(ctx context.Context, a *fileArchive, names []string) error {
	for _, name := range names {
		program, err := exec.LookPath(name)
		if err != nil {
			return fmt.Errorf("%w: make all-packages, and install the packages of test/kernels/packages.txt", err)
		}
		addAt(a, program)
		libraries, err := libraries(ctx, program)
		if err != nil {
			return err
		}
		for _, library := range libraries {
			addAt(a, library)
		}
	}
	return a.err
}

// addAt adds a file at its own place. Directories such as /bin, which are links into /usr, are left to the archive.
func addAt(a *fileArchive, file string) {
	name := strings.TrimPrefix(file, "/")
	if !strings.HasPrefix(name, "usr/") {
		name = "usr/" + name
	}
	a.file(name, file, 0o755)
}

// libraries returns the paths of a program's shared libraries and of its dynamic linker.
func libraries(ctx context.Context, program string) ([]string, error) {
	text, err := output(exec.CommandContext(ctx, "ldd", program))
	if err != nil {
		return nil, err
	}
	var paths []string
	for line := range strings.Lines(text) {
		for _, field := range strings.Fields(line) {
			if strings.HasPrefix(field, "/") {
				paths = append(paths, field)
			}
		}
	}
	return paths, nil
}
