// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"strings"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// servesAnywhere are the commands that have nothing to do with pins.
var servesAnywhere = []string{"check", "completion", "demo", "help", "version"}

// flagsFor are the flags without which a command does not get to the pins.
var flagsFor = map[string][]string{
	"explain": {"--peer", "10.1.0.100", "--self", "10.4.0.100"},
}

// otherUses are other uses of commands.
var otherUses = [][]string{
	{"detach", "--stop"},
	{"doctor", "--fix"},
	{"flows", "--follow"},
	{"flows", "-o", "json"},
	{"run", "--observe"},
	{"status", "-o", "json"},
	{"top", "-o", "json"},
}

// completions are the words that may follow others, each with what it does.
func completions(p *harness.Product, words ...string) []string {
	var found []string
	for line := range strings.Lines(p.Expect(0, append(append([]string{"__complete"}, words...), "")...).Stdout) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if !strings.HasPrefix(word, ":") {
			found = append(found, word)
		}
	}
	return found
}

// everyUse lists all commands that work on pins, with their subcommands and arguments.
func everyUse(t *testing.T, p *harness.Product, self string) [][]string {
	t.Helper()
	uses := append(slices.Clone(otherUses), []string{"trace", "--self", self, "--peer", self, "--send"})
	for _, name := range completions(p) {
		if slices.Contains(servesAnywhere, name) {
			continue
		}
		uses = append(uses, append([]string{name}, flagsFor[name]...))
		for _, below := range completions(p, name) {
			uses = append(uses, []string{name, below})
		}
	}
	if len(uses) < len(otherUses)+12 {
		t.Fatalf("these are not all commands: %q", uses)
	}
	return uses
}

// TestForeignPinsAreRefused: every command refuses the pins of another network namespace, says
// which they are and what to do, and leaves them alone. One that is new is among them.
func TestForeignPinsAreRefused(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), true)
	foreign := p.At(n.Client)
	pins := harness.Pins(t)
	for _, daemon := range []string{"alive", "dead"} {
		if daemon == "dead" {
			d.Kill()
		}
		refused := 0
		for _, use := range everyUse(t, p, n.ClientEth0.Address(topology.IPv4).String()) {
			result := foreign.Run(use...)
			if result.Code != 1 || result.Stdout != "" {
				t.Errorf("daemon %s: not refused: %s", daemon, result)
				continue
			}
			wantOneLine(t, result, p.PinDir+": pins belong to another network namespace", "run it there")
			refused++
		}
		t.Logf("daemon %s: %d uses of commands refused", daemon, refused)
	}
	if after := harness.Pins(t); !slices.Equal(pins, after) {
		t.Errorf("pins were %q, are %q", pins, after)
	}
	if flows := p.Flows(); len(flows) == 0 {
		t.Error("the flows are gone")
	}
	if mode := p.Status().Mode; mode != "enforce" {
		t.Errorf("the mode is %s", mode)
	}
	for _, use := range [][]string{{"check"}, {"version"}, {"completion", "bash"}} {
		foreign.Expect(0, use...)
	}
}
