// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"strings"
	"testing"
	"time"

	"replypath/cmd/replypath/demo/network"
	"replypath/test/await"
)

// failedStart is what the played `replypath run` logs.
const failedStart = `level=ERROR msg="this host has no luck"`

// newDemo is a demo in the test's own process.
func newDemo(t *testing.T, strict bool) *demo {
	t.Helper()
	needRoot(t)
	n, err := network.New(t.Context(), strict)
	await.Must(t, err)
	t.Cleanup(func() { await.Must(t, n.Close()) })
	return &demo{page: newPage(t.Output()), net: n}
}

// TestNothingWrong has the first round on a network where wrong replies arrive.
func TestNothingWrong(t *testing.T) {
	d := newDemo(t, false)
	await.Must(t, d.showWrong(t.Context()))
	err := d.verdict()
	for _, want := range []string{
		"without replypath: ping to 10.4.0.100 was answered",
		"without replypath: TCP to 10.4.0.100:7000 was answered",
		"without replypath: UDP to [2001:db8:4::100]:7000 was answered",
		"replies left by eth0, the production router dropped 0 packets",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

// TestNothingRight has the second round without replypath.
func TestNothingRight(t *testing.T) {
	d := newDemo(t, true)
	r, err := newRound(t.Context(), d.net, withReplypath)
	await.Must(t, err)
	await.Must(t, r.ask(t.Context(), true))
	d.showReplies(r)
	await.Must(t, r.close())
	err = d.verdict()
	for _, want := range []string{
		"with replypath: ping to 10.4.0.100 was not answered",
		"with replypath: TCP to 10.4.0.100:7000: not all replies left by eth1 to its gateway",
		"with replypath: UDP to [2001:db8:4::100]:7000: a reply left by eth0",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

func TestFailedStart(t *testing.T) {
	d := newDemo(t, true)
	begun := time.Now()
	_, err := d.start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "ended before it was ready") ||
		!strings.Contains(err.Error(), "no luck") {
		t.Errorf("got error %v", err)
	}
	if took := time.Since(begun); took > readyTime/2 {
		t.Errorf("that took %s", took)
	}
}
