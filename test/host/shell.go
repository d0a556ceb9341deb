// SPDX-License-Identifier: Apache-2.0

// Package host is what else runs on a host, and what is left on it.
package host

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
)

// Shell runs commands on a host as its operator would type them, and wants that each of them succeeds.
func Shell(t testing.TB, host *topology.Host, script string) string {
	t.Helper()
	return read(t, host, script, "sh", "-eu")
}

// Nft loads a ruleset on a host.
func Nft(t testing.TB, host *topology.Host, ruleset string) {
	t.Helper()
	read(t, host, ruleset, "nft", "-f", "-")
}

// read has a program read a text, which has to succeed, and returns what it wrote.
func read(t testing.TB, host *topology.Host, text, program string, args ...string) string {
	t.Helper()
	c := host.Command(await.Within(t, product.CommandTime), program, args...)
	c.Stdin = strings.NewReader(text)
	output, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s on %s: %v\n%s\n%s", program, host.Name, err, text, output)
	}
	return string(output)
}

// Settle returns when a server has dealt with what a router of its has sent to an interface so far: the cable keeps the
// order.
func Settle(t *testing.T, router *topology.Router, to *topology.Interface) {
	t.Helper()
	_, err := router.Ping(await.Within(t, await.AnswerTime), topology.Echo{To: to.Address(topology.IPv4)})
	await.Must(t, err)
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
	await.Must(t, err)
}
