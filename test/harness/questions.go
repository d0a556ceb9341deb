// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/test/topology"
)

// Families are both.
var Families = []topology.Family{topology.IPv4, topology.IPv6}

// EachQuestion runs a subtest for each family and kind of question.
func EachQuestion(t *testing.T, name string, run func(*testing.T, topology.Family, Kind)) {
	t.Helper()
	EachQuestionOf(t, Families, name, run)
}

// EachQuestionOf is EachQuestion for some families.
func EachQuestionOf(t *testing.T, families []topology.Family, name string, run func(*testing.T, topology.Family, Kind)) {
	t.Helper()
	for _, f := range families {
		for _, kind := range Kinds {
			t.Run(name+"/"+f.String()+"/"+string(kind), func(t *testing.T) { run(t, f, kind) })
		}
	}
}

// Ask asks one question, and wants the answer.
func Ask(t testing.TB, c *Conversation) {
	t.Helper()
	Must(t, c.Ask(Within(t, AnswerTime)))
}

// AskSizes asks questions of several sizes, and wants the answers.
func AskSizes(t testing.TB, c *Conversation) {
	t.Helper()
	for _, size := range c.Sizes() {
		if err := c.AskFor(Within(t, AnswerTime), size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// End closes a connection by TCP, and waits at a capture for the server's FIN, which is one of its answers. What has no
// connection goes on.
func End(t testing.TB, c *Conversation, at *topology.Capture, answers topology.Filter) {
	t.Helper()
	if c.Kind != TCP {
		return
	}
	Must(t, c.Close())
	fin := topology.All(answers, topology.Flags(topology.FIN, topology.FIN), topology.Going(topology.Received))
	if _, err := at.Wait(Within(t, AnswerTime), fin); err != nil {
		t.Errorf("the server's end of the connection: %v", err)
	}
}

// WantByEth1 asks, and wants the answers to leave by the server's eth1 only.
func WantByEth1(t testing.TB, server *topology.Server, c *Conversation) {
	t.Helper()
	wires := Tap(t, server)
	if err := c.Ask(Within(t, AnswerTime)); err != nil {
		t.Error(err)
	} else {
		// What another processor captures at the same time may keep the answer back for a moment: frames are taken in
		// turn. Whether it came at all is judged below.
		_, _ = wires.Eth1.Wait(Within(t, AnswerTime), c.Answers())
	}
	wires.WantEth1(c.String(), c.Answers())
}

// WantBy asks, and wants the answers to leave by the server's eth1 only, or by its eth0. It returns them.
func WantBy(t testing.TB, server *topology.Server, c *Conversation, eth1 bool) []*topology.Frame {
	t.Helper()
	wires := Tap(t, server)
	Ask(t, c)
	return wires.Want(eth1, c.String(), c.Answers())
}

// Settle returns when a server has dealt with what a router of its has sent to an interface so far: the cable keeps the
// order.
func Settle(t *testing.T, router *topology.Router, to *topology.Interface) {
	t.Helper()
	_, err := router.Ping(Within(t, AnswerTime), topology.Echo{To: to.Address(topology.IPv4)})
	Must(t, err)
}

// IPBatch runs commands of ip(8) on a host, one a line.
func IPBatch(t testing.TB, host *topology.Host, batch string) {
	t.Helper()
	Shell(t, host, "ip -batch - <<END\n"+batch+"\nEND\n")
}

// NeedTCX skips a test where the kernel has no TCX: it does not know the attach type that it is asked for, on an
// interface that is always there.
func NeedTCX(t *testing.T) {
	t.Helper()
	const lo = 1
	_, err := link.QueryPrograms(link.QueryOptions{Target: lo, Attach: ebpf.AttachTCXIngress})
	if errors.Is(err, unix.EINVAL) {
		t.Skip("the kernel has no tcx (Linux 6.6)")
	}
	Must(t, err)
}

// NeedAnnounced skips a test where the kernel may not tell of prefixes that routers announce.
func NeedAnnounced(t *testing.T) {
	t.Helper()
	var name unix.Utsname
	Must(t, unix.Uname(&name))
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		t.Fatalf("version of the kernel %q: %v", release, err)
	}
	if major < 6 || major == 6 && minor < 11 {
		t.Skipf("Linux %s may not tell of announced prefixes (6.11)", release)
	}
}
