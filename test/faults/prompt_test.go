// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// attempts is how often each thing is started. The fastest are compared, as any of them
// may have waited for a processor; none may hang.
const attempts = 5

// asPromptly is how much longer, 20 ms, a failure may take with replypath than without. It
// takes less than one; a SYN that nobody answers is sent again after a second.
var asPromptly = await.Patient(20 * time.Millisecond)

// patience is how long something may hang: longer than the three seconds for which the kernel asks for a gateway's MAC.
var patience = await.Patient(4 * time.Second)

// start is what a host starts, which hears of an error where there is no way out.
type start struct {
	name string
	try  func(*bed) error
	// noRoute is the error with and without replypath, but where the carrier is lost: held with it, noCarrier without. Of ping
	// it tells none.
	noRoute, held, noCarrier string
}

var starts = []start{
	{"connect", func(b *bed) error { return b.reachWithin(patience, traffic.TCP) },
		"ENETUNREACH", "ECONNREFUSED", "EHOSTUNREACH"},
	{"a datagram by a connected socket", func(b *bed) error { return b.reachWithin(patience, traffic.UDP) },
		"ENETUNREACH", noError, noError},
	{"a datagram by a socket that is not connected", (*bed).sendUnconnected, "ENETUNREACH", noError, noError},
	{"ping", (*bed).ping, "", "", ""},
}

// noError is what comes of something that hangs.
const noError = "no error"

// wantErrors wants each failure to be the one that the documentation tells of.
func (s start) wantErrors(t *testing.T, fault fault, with, without []failure) {
	t.Helper()
	beside, alone := s.noRoute, s.noRoute
	if fault.holds {
		beside, alone = s.held, s.noCarrier
	}
	for _, side := range []struct {
		name, want string
		failures   []failure
	}{{"with", beside, with}, {"without", alone, without}} {
		for _, failure := range side.failures {
			if got := failure.name(); side.want != "" && got != side.want {
				t.Errorf("%s %s replypath: %s, not %s", s.name, side.name, got, side.want)
			}
		}
	}
}

// TestFailsAsPromptly has two hosts lose their way out, one of them with replypath. What
// they start fails as soon on this one as on the other. Where the carrier is lost the
// kernel alone waits for the gateway, by the timers that it has for that; with replypath connections alone are refused.
func TestFailsAsPromptly(t *testing.T) {
	each(t, gone(), func(t *testing.T, fault fault, f topology.Family) {
		alone := newPatientBed(t, f, anySource)
		beside := newPatientBed(t, f, anySource)
		beside.start()
		for _, b := range []*bed{alone, beside} {
			b.wantHostReaches(true, traffic.TCP, traffic.UDP)
			fault.begin(b)
		}
		beside.awaitRules(true)
		without := make([][]failure, len(starts))
		if fault.holds { // the kernel takes seconds for each
			var asking sync.WaitGroup
			for k, start := range starts {
				asking.Go(func() { without[k] = alone.failures(start.try) })
			}
			asking.Wait()
		}
		release := product.Quiet(t)
		for k, start := range starts {
			with := beside.failures(start.try)
			if without[k] == nil {
				without[k] = alone.failures(start.try)
			}
			start.wantErrors(t, fault, with, without[k])
			slowest := with[len(with)-1].took
			t.Logf("%s, %s: %s (%d of them, the slowest %s); without replypath %s", fault.name, start.name,
				with[0], len(with), slowest.Round(10*time.Microsecond), without[k][0])
			isTold := !fault.holds || start.held == "ECONNREFUSED"
			if late := with[0].took - without[k][0].took; isTold && (late >= asPromptly || slowest >= promptly) {
				t.Errorf("%s fails %s later than without replypath, or after %s", start.name, late, slowest)
			}
		}
		release()
	})
}

// failure is how something ended that the host started in vain.
type failure struct {
	took time.Duration
	err  error
}

// String is the error and how long it took.
func (f failure) String() string {
	took := f.took.Round(10 * time.Microsecond)
	if f.err == nil {
		return fmt.Sprintf("answered after %s", took)
	}
	return fmt.Sprintf("%s after %s", f.name(), took)
}

// name is the error's, as the kernel calls it.
func (f failure) name() string {
	var number syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(f.err, &number):
		return unix.ErrnoName(number)
	case errors.As(f.err, &timeout) && timeout.Timeout():
		return noError
	}
	return f.err.Error()
}

// failures starts something again and again, or once where it has to wait for its failure. The fastest comes first.
func (b *bed) failures(try func(*bed) error) []failure {
	b.Helper()
	var all []failure
	for range attempts {
		f := b.failure(try)
		all = append(all, f)
		if f.took >= promptly {
			break
		}
	}
	slices.SortFunc(all, func(x, y failure) int { return cmp.Compare(x.took, y.took) })
	return all
}

func (b *bed) failure(try func(*bed) error) failure {
	b.Helper()
	began := time.Now()
	err := try(b)
	if err == nil {
		err = errors.New("the host reached the client")
		b.Error(err)
	}
	return failure{time.Since(began), err}
}

// pingError is what ping prints of an error.
var pingError = regexp.MustCompile(`Network is unreachable|Destination [A-Za-z: ]+`)

// ping runs the program ping, which asks once.
func (b *bed) ping() error {
	ctx := await.Within(b, 2*await.AnswerTime)
	output, err := b.net.Server.Command(ctx, "ping", "-n", "-c1", "-W10", b.clientAddress().String()).CombinedOutput()
	if said := pingError.FindString(string(output)); err != nil && said != "" {
		return fmt.Errorf("%q", said)
	}
	return err
}

// sendUnconnected sends a datagram by a socket that is not connected, and waits for an error.
func (b *bed) sendUnconnected() error {
	ctx := await.Within(b, await.AnswerTime)
	conn, err := b.net.Server.ListenPacket(ctx, "udp", netip.AddrPortFrom(unspecified[b.family], 0).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.clientAddress(), traffic.EchoPort))
	if _, err := conn.WriteTo([]byte("question"), to); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, _, err = conn.ReadFrom(make([]byte, 8))
	return err
}
