// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"strings"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

const eth1RPFilter = "net/ipv4/conf/eth1/rp_filter"

// TestStrictRPFilter starts on a host that drops the question itself, as
// distributions ship it: strict becomes loose, is told, and is put back.
func TestStrictRPFilter(t *testing.T) {
	n := newServer(t)
	harness.Must(t, n.Server.SetSysctl(eth1RPFilter, "1"))
	wires := harness.Tap(t, n.Server)
	unheard := conversation(t, n, harness.Ping, topology.IPv4)
	if err := unheard.Ask(harness.Within(t, harness.SilenceTime)); err == nil {
		t.Fatal("the host answers in spite of its strict rp_filter")
	}
	if eth0, eth1 := wires.Left(unheard.Answers()); len(eth0)+len(eth1) > 0 {
		t.Fatalf("the host answers in spite of its strict rp_filter: %d by eth0, %d by eth1", len(eth0), len(eth1))
	}

	p := harness.On(t, n.Server.Host)
	d := p.Start()
	frames := 0
	for _, kind := range harness.Kinds {
		frames += len(harness.WantBy(t, n.Server, conversation(t, n, kind, topology.IPv4), true))
	}
	wantRPFilter(t, n, "2")
	s := p.Status()
	if got := s.Interface("eth1").RPFilter; got == nil || *got != 2 {
		t.Errorf("the status has rp_filter %v on eth1", got)
	}
	want := harness.HostChange{Object: "sysctl net.ipv4.conf.eth1.rp_filter", Before: "1", After: "2"}
	// Without TCX there are qdiscs as well.
	sysctls := slices.DeleteFunc(s.OtherChanges(), func(c harness.HostChange) bool {
		return !strings.HasPrefix(c.Object, "sysctl ")
	})
	if len(sysctls) != 1 {
		t.Fatalf("host changes %+v, want %+v", s.HostChanges, want)
	}
	got := sysctls[0]
	want.Undo = got.Undo
	if got != want || got.Undo == "" {
		t.Errorf("host change %+v, want %+v", got, want)
	}
	if got := p.Metrics().Sum("replypath_rp_filter", "interface=eth1"); got != 2 {
		t.Errorf("replypath_rp_filter of eth1 is %v", got)
	}
	d.WaitLog(1, "rp_filter", "eth1")
	d.Kill()
	p.Detach()
	wantRPFilter(t, n, "1")
	t.Logf("strict: 1 question, 0 answers; loose: %d questions by ping, TCP and UDP, %d frames of answers by eth1; strict again after detach",
		len(harness.Kinds), frames)
}

// TestRPFilterLeftAlone does not touch it when told not to.
func TestRPFilterLeftAlone(t *testing.T) {
	n := newServer(t)
	harness.Must(t, n.Server.SetSysctl(eth1RPFilter, "1"))
	p := harness.On(t, n.Server.Host)
	p.Start("--config", newConfig(t, "manage_rp_filter: false\n").path)
	wantRPFilter(t, n, "1")
	s := p.Status()
	touched := slices.ContainsFunc(s.HostChanges, func(c harness.HostChange) bool { return strings.Contains(c.Object, "rp_filter") })
	if touched || *s.Interface("eth1").RPFilter != 1 {
		t.Errorf("host changes %+v, rp_filter %d", s.HostChanges, *s.Interface("eth1").RPFilter)
	}
}

func wantRPFilter(t *testing.T, n *topology.TwoNIC, want string) {
	t.Helper()
	if got := harness.Must1[string](t)(n.Server.Sysctl(eth1RPFilter)); got != want {
		t.Errorf("rp_filter of eth1 is %s, not %s", got, want)
	}
}
