// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"replypath/test/await"
	"replypath/test/short"
	"replypath/test/topology"
)

// expected is what a reader has to see, in this order.
var expected = []string{
	// The network.
	`A eth1 10\.2\.0\.100 .* 10\.4\.0\.1 .* 10\.4\.0\.100 eth1 B`,
	// No answers, and why.
	`✗ ping 10\.4\.0\.100 +no answer +1 left by eth0 \(02:00:00:00:02:00 > 02:00:00:00:03:01\)`,
	`✗ TCP 10\.4\.0\.100:7000 +no answer +\d left by eth0 \(02:00:00:00:02:00 > 02:00:00:00:03:01\)`,
	`✗ ping 2001:db8:4::100 +no answer +1 left by eth0`,
	`✗ TCP \[2001:db8:4::100\]:7000 +no answer +\d left by eth0`,
	`router dropped \d+ packets`,
	// The same with replypath.
	`replypath run`,
	`✓ ready`,
	`✓ ping 10\.4\.0\.100 +answered +1 left by eth1 \(02:00:00:00:02:01 > 02:00:00:00:04:01\)`,
	`✓ TCP 10\.4\.0\.100:7000 +answered +\d left by eth1 \(02:00:00:00:02:01 > 02:00:00:00:04:01\)`,
	`✓ ping 2001:db8:4::100 +answered +1 left by eth1`,
	`✓ TCP \[2001:db8:4::100\]:7000 +answered +\d left by eth1`,
	// What replypath knows.
	`icmp +10\.2\.0\.100:\d+ .* eth1 +eth0 `,
	`tcp +10\.2\.0\.100:40002 .* eth1 +eth0 +established`,
	`enforcing on eth0, eth1; \d+ replies corrected`,
	`eth1 +yes +(tcx|clsact)`,
	// The end.
	`✓ ping 10\.4\.0\.100 +answered +1 left by eth1`,
	`removed `,
	`✓ Seen both`,
}

// mostLines is what a person reads in half a minute.
const mostLines = 70

func TestDemo(t *testing.T) {
	r := watchHost(t)
	p := startDemo(t)
	p.awaitLine("2.")
	r.watchNamespaces(p.command.Process.Pid)
	status := p.wait()
	output := p.stdout.String()
	t.Log("\n" + output)
	if status.ExitStatus() != 0 || p.stderr.Len() > 0 {
		t.Errorf("exit code %d, %s", status.ExitStatus(), p.stderr.String())
	}
	if n := strings.Count(output, "\n"); n > mostLines {
		t.Errorf("%d lines, more than %d", n, mostLines)
	}
	if strings.Contains(output, "\x1b") {
		t.Error("colours where there is no terminal")
	}
	expectInOrder(t, output, expected)
	r.expectNothing(p)
}

// expectInOrder wants each pattern in a line after that of the one before.
func expectInOrder(t *testing.T, text string, patterns []string) {
	t.Helper()
	for _, pattern := range patterns {
		found := regexp.MustCompile(`.*` + pattern + `.*\n`).FindStringIndex(text)
		if found == nil {
			t.Fatalf("nothing like %s in the rest:\n%s", pattern, text)
		}
		text = text[found[1]:]
	}
}

// TestEndedEarly ends the demo in each of its steps, by signals that it can answer and by one that it cannot.
func TestEndedEarly(t *testing.T) {
	moments := map[syscall.Signal][]string{
		syscall.SIGINT:  {"1.", "2.", "3.", "4.", "5.", "6."},
		syscall.SIGTERM: {"4."},
		syscall.SIGKILL: {"1.", "2.", "3.", "4.", "6."},
	}
	if short.Run(t) { // while the network is made, and while replypath runs
		moments = map[syscall.Signal][]string{syscall.SIGINT: {"1.", "6."}, syscall.SIGTERM: {"4."}, syscall.SIGKILL: {"4."}}
	}
	for signal, steps := range moments {
		for _, at := range steps {
			t.Run(signal.String()+" at "+at, func(t *testing.T) { testEndedEarly(t, at, signal) })
		}
	}
}

func testEndedEarly(t *testing.T, at string, signal syscall.Signal) {
	r := watchHost(t)
	p := startDemo(t)
	p.awaitLine("replypath-demo: ")
	if at > "2." {
		p.awaitLine("2.")
		r.watchNamespaces(p.command.Process.Pid)
	}
	p.awaitLine(at)
	p.signal(signal)
	status := p.wait()
	if signal == syscall.SIGKILL {
		if !status.Signaled() {
			t.Errorf("exit code %d after a kill", status.ExitStatus())
		}
	} else if status.ExitStatus() != 1 || !strings.Contains(p.stderr.String(), "the demo ended early") {
		t.Errorf("exit code %d, %q", status.ExitStatus(), p.stderr.String())
	}
	r.expectNothing(p)
}

func TestNeedsRoot(t *testing.T) {
	const nobody = 65534
	command := demoCommand(t)
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	output, err := command.CombinedOutput()
	if command.ProcessState == nil {
		t.Fatal(err)
	}
	if code := command.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(output), "as root") {
		t.Errorf("exit code %d, %q", code, output)
	}
}

func TestFailedStart(t *testing.T) {
	program := filepath.Join(t.TempDir(), "replypath")
	await.Must(t, os.WriteFile(program, []byte("#!/bin/sh\necho this host has no luck >&2\nexit 1\n"), 0o755))
	p := startDemo(t, "-replypath", program)
	await.Same(t, "exit code", 1, p.wait().ExitStatus())
	await.Says(t, "the demo", p.stderr.String(), "ended before it was ready", "this host has no luck")
}

// demoIn is a demo in the test's own process.
func demoIn(t *testing.T, policy topology.Policy) *demo {
	t.Helper()
	d, err := newDemo(t.Context(), "", policy, t.Output())
	await.Must(t, err)
	t.Cleanup(func() { await.Must(t, d.close()) })
	return d
}

// wantMissing wants a verdict that names what was not seen.
func wantMissing(t *testing.T, d *demo, missing ...string) {
	t.Helper()
	err := d.verdict()
	for _, want := range missing {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

// TestNothingWrong has the first round on a network where wrong replies arrive.
func TestNothingWrong(t *testing.T) {
	d := demoIn(t, topology.AnySource)
	await.Must(t, d.showWrong(t.Context()))
	wantMissing(t, d,
		"without replypath: ping 10.4.0.100: answered",
		"without replypath: TCP 10.4.0.100:7000: answered",
		"without replypath: TCP [2001:db8:4::100]:7000: answered",
		"replies left by eth0, the production router dropped 0 packets")
}

// TestNothingRight has the second round without replypath.
func TestNothingRight(t *testing.T) {
	d := demoIn(t, topology.StrictSource)
	_, err := d.ask(t.Context(), withReplypath)
	await.Must(t, err)
	wantMissing(t, d,
		"with replypath: ping 10.4.0.100: no answer",
		"with replypath: TCP 10.4.0.100:7000: not all replies left by eth1 to its gateway",
		"with replypath: TCP [2001:db8:4::100]:7000: a reply left by eth0")
}
