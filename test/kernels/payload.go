// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed tools.txt
var toolList string

//go:embed data.txt
var dataList string

// buildPayload builds what is the same on every kernel of an architecture and returns the archive's path: the product, the
// tests with their source tree, the tools: of this machine, or of a userland where that is not empty.
func buildPayload(ctx context.Context, work string, suites []suite, kind *architecture, userland string) (string, error) {
	s, file := &stage{filepath.Join(work, "payload")}, filepath.Join(work, "payload.cpio")
	if err := compile(ctx, s, suites, kind); err != nil {
		return "", err
	}
	sources, err := filepath.Glob("*")
	if err != nil {
		return "", err
	}
	sources = slices.DeleteFunc(sources, func(name string) bool { return name == "bin" || name == "build" })
	add := addOwn
	if kind.foreign {
		add = func(ctx context.Context, s *stage, _ []suite) error { return addUserland(ctx, s, userland) }
	}
	err = errors.Join(s.text("init", initScript, 0o755), s.text("etc/machine-id", machineID, 0o444),
		s.copy(ctx, "src", sources...), add(ctx, s, suites))
	if err != nil {
		return "", err
	}
	return file, s.pack(ctx, file)
}

// addOwn adds what suites need of this machine.
func addOwn(ctx context.Context, s *stage, suites []suite) error {
	for _, name := range listed(dataList) {
		if err := s.copy(ctx, filepath.Dir(name), name); err != nil {
			return err
		}
	}
	tools := listed(toolList)
	for _, suite := range suites {
		tools = append(tools, suite.tools...)
	}
	return addTools(ctx, s, tools)
}

// addUserland adds what was unpacked of another architecture's packages, but for what is only read by people.
func addUserland(ctx context.Context, s *stage, root string) error {
	var errs []error
	for _, name := range []string{"bin", "sbin", "lib"} { // links into /usr in the virtual machine
		errs = append(errs, s.copy(ctx, "usr/"+name, filepath.Join(root, name)+"/."))
	}
	for _, name := range []string{"usr/bin", "usr/sbin", "usr/lib", "etc"} {
		errs = append(errs, s.copy(ctx, name, filepath.Join(root, name)+"/."))
	}
	return errors.Join(append(errs, s.copy(ctx, "etc", "/etc/passwd", "/etc/group"))...) // which a package's script makes
}

// buildRunList makes an archive of the list of what is run on a kernel, and returns its path.
func buildRunList(ctx context.Context, work, version string, suites []suite, short bool) (string, error) {
	var text strings.Builder
	for _, s := range suitesOn(version, suites) {
		text.WriteString(s.line(short))
	}
	s, file := &stage{filepath.Join(work, "run-"+version)}, filepath.Join(work, "run-"+version+".cpio")
	return file, errors.Join(s.text("run.list", text.String(), 0o644), s.pack(ctx, file))
}

// compile builds the product and the test binaries, which need no library.
func compile(ctx context.Context, to *stage, suites []suite, kind *architecture) error {
	for _, dir := range []string{"src/bin", "tests"} {
		if err := os.MkdirAll(to.path(dir), 0o755); err != nil {
			return err
		}
	}
	commands := [][]string{{"build", "-o", to.path("src/bin/replypath"),
		"-ldflags", "-s -w -X main.version=" + productVersion, "./cmd/replypath"}}
	seen := make(map[string]bool)
	for _, s := range suites {
		if s.program != "" {
			commands = append(commands, []string{"build", "-ldflags", "-s -w", "-o", to.path("tests/" + s.name), "./" + s.program})
		}
		if s.pkg == "" || seen[s.pkg] {
			continue
		}
		seen[s.pkg] = true
		commands = append(commands, []string{"test", "-c", "-ldflags", "-s -w",
			"-o", to.path(s.binary()), "./" + s.pkg})
	}
	for _, args := range commands {
		c := exec.CommandContext(ctx, "go", append([]string{args[0], "-trimpath", "-buildvcs=false"}, args[1:]...)...)
		c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+kind.name)
		if _, err := output(c); err != nil {
			return err
		}
	}
	return compileOthers(ctx, to, suites)
}

// compileOthers builds the product otherwise, for the suites that need that.
func compileOthers(ctx context.Context, to *stage, suites []suite) error {
	for _, s := range suites {
		for _, b := range s.builds {
			if err := b.Make(ctx, ".", to.path("tests/"+b.Name), productVersion); err != nil {
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

// addTools adds programs of this machine at their own places, with the libraries that they need. Directories such as /bin are
// links into /usr.
func addTools(ctx context.Context, s *stage, names []string) error {
	for _, name := range names {
		program, err := exec.LookPath(name)
		if err != nil {
			return fmt.Errorf("%w: make all-packages, and install the packages of test/kernels/packages.txt", err)
		}
		libraries, err := libraries(ctx, program)
		if err != nil {
			return err
		}
		for _, file := range append(libraries, program) {
			if err := s.install(ctx, filepath.Join("usr", strings.TrimPrefix(file, "/usr/")), file); err != nil {
				return err
			}
		}
	}
	return nil
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
