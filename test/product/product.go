// SPDX-License-Identifier: Apache-2.0

// Package product runs the program under test in a sandbox, and reads what it says.
package product

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"replypath/test/await"
	"replypath/test/topology"
)

// commandTime bounds every command that is to end by itself.
var CommandTime = 2 * await.AnswerTime

// Product is the product on one host, with a pin directory of its own.
type Product struct {
	Host   *topology.Host
	PinDir string

	t testing.TB
}

// directories counts the pin directories, so that no two tests share one.
var directories atomic.Int32

// On returns the product for a host. What is attached when the test ends is detached then, which has to succeed.
func On(t testing.TB, host *topology.Host) *Product {
	t.Helper()
	await.Must(t, noteSources())
	name := fmt.Sprintf("%s-%d", host.Name, directories.Add(1))
	p := &Product{Host: host, PinDir: filepath.Join(BpfDir, name), t: t}
	t.Cleanup(p.cleanUp)
	return p
}

// In returns the product for use in a subtest, which fails in its place.
func (p *Product) In(t testing.TB) *Product {
	return &Product{Host: p.Host, PinDir: p.PinDir, t: t}
}

// At returns the product on another host, with the same pin directory.
func (p *Product) At(host *topology.Host) *Product {
	return &Product{Host: host, PinDir: p.PinDir, t: p.t}
}

// WithPinDir returns the product on the same host with another pin directory, or with the usual one if it is empty.
// Nobody detaches it when the test ends.
func (p *Product) WithPinDir(dir string) *Product {
	return &Product{Host: p.Host, PinDir: dir, t: p.t}
}

func (p *Product) cleanUp() {
	if _, err := os.Stat(p.PinDir); errors.Is(err, os.ErrNotExist) {
		return
	}
	if result := p.Run("detach", "--stop"); result.Code != 0 {
		p.t.Errorf("detach at the end of the test: %s", result)
		os.RemoveAll(p.PinDir)
	}
}

// Binary returns the path of the program under test.
func Binary() string { return os.Getenv(BinaryVariable) }

// Version returns what the program under test calls itself.
func Version(t testing.TB) string {
	t.Helper()
	output := await.Must1[[]byte](t)(exec.CommandContext(t.Context(), Binary(), "version", "-o", "json").Output())
	var said struct{ Version string }
	await.Must(t, json.Unmarshal(output, &said))
	return said.Version
}

// Command returns a command of the product, to be started by the caller.
func (p *Product) Command(ctx context.Context, args ...string) *topology.Cmd {
	if p.PinDir != "" {
		args = append([]string{"--pin-dir", p.PinDir}, args...)
	}
	return p.Host.Command(ctx, Binary(), args...)
}

// Result is what became of a command.
type Result struct {
	Args           []string
	Code           int
	Stdout, Stderr string
}

// String shows the command as a terminal would.
func (r *Result) String() string {
	return fmt.Sprintf("$ replypath %s\n%s%s(exit %d)", strings.Join(r.Args, " "), r.Stdout, r.Stderr, r.Code)
}

// Run runs a command to its end.
func (p *Product) Run(args ...string) *Result {
	p.t.Helper()
	// Not the test's context, which has ended when it is cleaned up.
	ctx, cancel := context.WithTimeout(context.Background(), CommandTime)
	defer cancel()
	return p.finish(p.Command(ctx, args...), args)
}

// RunAs runs a command that the caller has prepared, such as one with fewer rights.
func (p *Product) RunAs(prepare func(*topology.Cmd), args ...string) *Result {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), CommandTime)
	defer cancel()
	c := p.Command(ctx, args...)
	prepare(c)
	return p.finish(c, args)
}

func (p *Product) finish(c *topology.Cmd, args []string) *Result {
	p.t.Helper()
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("replypath %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	result := &Result{Args: args, Code: c.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
	if len(args) > 0 && args[0] == "doctor" {
		wantHarmlessTable(p.t, result)
	}
	return result
}

// Expect runs a command that has to end with a code, and returns what it wrote.
func (p *Product) Expect(code int, args ...string) *Result {
	p.t.Helper()
	result := p.Run(args...)
	if result.Code != code {
		p.t.Fatalf("exit %d, not %d: %s", result.Code, code, result)
	}
	return result
}

// Detach takes everything away.
func (p *Product) Detach() {
	p.t.Helper()
	p.Expect(0, "detach")
}

// WriteConfig writes a configuration file for the duration of the test and returns its path.
func WriteConfig(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "replypath.yaml")
	await.Must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}
