// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"strings"
	"testing"

	"replypath/test/harness"
)

// TestMode switches between observing and enforcing under flows of every kind,
// with a daemon and without. It takes effect with the next packet.
func TestMode(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	var conversations []*harness.Conversation
	for _, f := range n.Families() {
		for _, kind := range harness.Kinds {
			conversations = append(conversations, conversation(t, n, kind, f))
		}
	}
	check := func(mode string) {
		t.Helper()
		if got := p.Status().Mode; got != mode {
			t.Errorf("status says mode %s, not %s", got, mode)
		}
		for _, c := range conversations {
			harness.WantBy(t, n.Server, c, mode == "enforce")
		}
	}
	check("enforce")
	for _, running := range []bool{true, false} {
		if !running {
			d.Kill()
		}
		for _, mode := range []string{"observe", "enforce"} {
			result := p.Expect(0, "mode", mode)
			if got := p.Expect(0, "mode").Stdout; got != mode+"\n" || got != result.Stdout {
				t.Errorf("mode %s: then mode is %q", mode, got)
			}
			check(mode)
		}
	}
}

// TestObserve counts what would be moved and moves nothing.
func TestObserve(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start("--observe")
	for _, f := range n.Families() {
		before := p.Metrics()
		wires := harness.Tap(t, n.Server)
		c := conversation(t, n, harness.TCP, f)
		for range 5 {
			harness.Ask(t, c)
		}
		answers := wires.WantEth0(c.String(), c.Answers())
		after := p.Metrics()
		labels := []string{"from_interface=eth0", "to_interface=eth1", "family=" + f.String(), "protocol=tcp"}
		for name, want := range map[string]int{
			"replypath_asymmetric_packets_total": len(answers),
			"replypath_asymmetric_flows_total":   1,
			"replypath_corrected_packets_total":  0,
			"replypath_corrected_flows_total":    0,
		} {
			if got := after.Sum(name, labels...) - before.Sum(name, labels...); got != float64(want) {
				t.Errorf("%s: %s is %v, not %d", f, name, got, want)
			}
		}
		const uncorrected = "replypath_uncorrected_packets_total"
		labels = append(labels, "reason=observe")
		if got := after.Sum(uncorrected, labels...); got != float64(len(answers)) {
			t.Errorf("%s: %s is %v, not %d", f, uncorrected, got, len(answers))
		}
	}
	if got := p.Metrics().Sum("replypath_mode", "mode=observe"); got != 1 {
		t.Errorf("replypath_mode of observe is %v", got)
	}
}

// TestModeRefused names what there is instead of a mode that there is not.
func TestModeRefused(t *testing.T) {
	p := harness.On(t, newServer(t).Server.Host)
	wantOneLine(t, p.Expect(2, "mode", "monitor"), `"monitor"`, "observe", "enforce")
	if r := p.Expect(1, "mode", "observe"); !strings.Contains(r.Stderr, "replypath run") {
		t.Errorf("without anything attached: %s", r)
	}
}
