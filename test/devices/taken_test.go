// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// backWithin is how soon what others take away is back.
const backWithin = time.Second

// takenOff is what the daemon logs then.
const takenOff = "programs had been taken off, attached again"

// theft is a way in which others remove from an interface what they think is theirs.
type theft struct {
	name, mechanism string
	steal           func(*testing.T, *product.Product, *topology.Interface) error
}

// byTC is a theft by tc(8), in one go: between two calls of it the daemon may have put back what the first one took.
func byTC(name string, commands ...string) theft {
	return theft{name, "clsact", func(t *testing.T, _ *product.Product, i *topology.Interface) error {
		return tcBatch(t, i.Host, commands...)
	}}
}

// tcBatch runs several commands of tc(8) in one process.
func tcBatch(t *testing.T, host *topology.Host, commands ...string) error {
	c := host.Command(await.Within(t, await.AnswerTime), "tc", "-batch", "-")
	c.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	output, err := c.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, output)
	}
	return err
}

var thefts = []theft{
	{"every link is detached", "tcx", detachLinks},
	{"the pins of its links are deleted", "tcx", deletePins("ingress", "egress")},
	byTC("the qdisc is deleted", "qdisc del dev eth1 clsact"),
	byTC("all filters are flushed", "filter del dev eth1 ingress", "filter del dev eth1 egress"),
	byTC("the filters of our priority are flushed", "filter del dev eth1 ingress prio 5"),
}

// deletePins deletes the pins of links of an interface, each of which goes with its pin.
func deletePins(places ...string) func(*testing.T, *product.Product, *topology.Interface) error {
	return func(_ *testing.T, p *product.Product, i *topology.Interface) error {
		var errs []error
		for _, place := range places {
			pin := strconv.Itoa(i.Index) + "-" + place
			errs = append(errs, os.Remove(filepath.Join(p.PinDir, "links", pin)))
		}
		return errors.Join(errs...)
	}
}

// detachLinks detaches every TCX link of an interface, whoever made it.
func detachLinks(_ *testing.T, _ *product.Product, i *topology.Interface) error {
	for _, h := range hooks {
		if err := h.detachLinks(i); err != nil {
			return err
		}
	}
	return nil
}

func (h hook) detachLinks(i *topology.Interface) error {
	return i.Host.Do(func() error {
		result, err := link.QueryPrograms(link.QueryOptions{Target: i.Index, Attach: h.tcx})
		if err != nil {
			return err
		}
		for _, p := range result.Programs {
			if err := detachLink(p); err != nil {
				return err
			}
		}
		return nil
	})
}

func detachLink(p link.AttachedProgram) error {
	id, ok := p.LinkID()
	if !ok {
		return errors.New("a program without a link")
	}
	l, err := link.NewFromID(id)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

// TestTaken has others remove our programs under a conversation, three times:
// they are back within a second, which is logged and counted, the metrics show that they
// are gone and that they are back, and from then on answers leave by eth1 again.
func TestTaken(t *testing.T) {
	quick := short.Run(t)
	for n, theft := range thefts {
		if quick && n%2 > 0 {
			continue
		}
		t.Run(theft.name, func(t *testing.T) {
			needMechanism(t, theft.mechanism)
			n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
			p := product.On(t, n.Server.Host)
			d := p.Start("--mechanism", theft.mechanism)
			talks := server.KeepTCP(t, n)
			const times = 3
			var took []time.Duration
			shown := 0
			release := product.Quiet(t)
			for i := range times {
				await.Must(t, theft.steal(t, p, n.Server.Eth1))
				began := time.Now()
				if attachedHooks(p, "eth1") < len(hooks) {
					shown++
				}
				d.WaitLog(i+1, "level=WARN", takenOff, "interface=eth1")
				took = append(took, loggedAt(t, d.Log.Lines("level=WARN", takenOff, "interface=eth1")[i]).Sub(began).Round(time.Millisecond))
				wantAttached(t, p, "eth1", true)
				talks.Afresh()
			}
			release()
			t.Logf("%s, %d times: back after %v, shown %d times, %d answers of both families",
				theft.name, times, took, shown, talks.Stop())
			// They may be back before the scrape comes to them, but hardly each time.
			if shown == 0 {
				t.Error("replypath_interface_attached never showed that they were gone")
			}
			wantRepairs(t, p, took)
		})
	}
}

// loggedAt is when a line was written, which the test reads after a scrape.
func loggedAt(t *testing.T, line string) time.Time {
	t.Helper()
	stamp, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
	return await.Must1[time.Time](t)(time.Parse(time.RFC3339Nano, stamp))
}

// placeIngress puts an ingress qdisc in the place of ours, at once; it fails where they came back in between.
func placeIngress(t *testing.T, i *topology.Interface) error {
	return tcBatch(t, i.Host, "qdisc del dev "+i.Name+" clsact", "qdisc add dev "+i.Name+" ingress")
}

// TestTakenAndKept has others take the room of our programs: the metrics, the status, /healthz and the log show it for
// as long as it lasts, and when they leave ours are back within a second.
func TestTakenAndKept(t *testing.T) {
	const removal = "tc qdisc del dev eth1 ingress"
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	p := product.On(t, n.Server.Host)
	d := p.Start("--mechanism", "clsact")
	both := func() {
		t.Helper()
		for _, f := range n.Families() {
			wire.WantByEth1(t, n.Server, traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(f)))
		}
	}
	both()
	wantAttached(t, p, "eth1", true)
	await.Eventually(t, "an ingress qdisc", func() error { return placeIngress(t, n.Server.Eth1) })
	d.WaitLog(1, "level=ERROR", removal)
	wantAttached(t, p, "eth1", false)
	wantAttached(t, p, "eth0", true)
	if i := p.Status().Interface("eth1"); i == nil || i.Attached {
		t.Errorf("status of eth1: %+v", i)
	}
	if s := p.Status(); len(s.Errors) != 1 || !strings.Contains(s.Errors[0], removal) {
		t.Errorf("errors of the status: %q", s.Errors)
	}
	found := p.Doctor(3)
	if first := found[:1].Of("attached", "eth1").With("error", "an ingress qdisc of somebody else is on eth1"); len(first) != 1 {
		t.Errorf("doctor begins with %+v", found[0])
	}
	if again := found.With("warning", "clsact"); len(again) > 0 {
		t.Errorf("doctor says it again: %+v", again)
	}
	before := len(d.Log.Lines("level=WARN", takenOff, "interface=eth1"))
	release := product.Quiet(t)
	testhost.Shell(t, n.Server.Host, removal)
	began := time.Now()
	d.WaitLog(before+1, "level=WARN", takenOff, "interface=eth1")
	took := time.Since(began)
	release()
	t.Logf("an ingress qdisc: back %s after it has gone", took.Round(time.Millisecond))
	if took > await.Patient(backWithin) {
		t.Error("that is too late")
	}
	wantAttached(t, p, "eth1", true)
	both()
}

// TestShaper has a shaper come after us. By TCX its ingress qdisc is not in the way. By clsact it is refused, which doctor and the
// status tell of, and its filter works in ours.
func TestShaper(t *testing.T) {
	server.EachMechanism(t, func(t *testing.T, mechanism string) {
		n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
		wantAllLost(t, n, n.Server)
		p := product.On(t, n.Server.Host)
		p.Start("--mechanism", mechanism)
		err := tcBatch(t, n.Server.Host, "qdisc add dev eth1 ingress")
		if (err != nil) != (mechanism == "clsact") {
			t.Errorf("an ingress qdisc: %v", err)
		}
		await.Must(t, tcBatch(t, n.Server.Host, "filter add dev eth1 ingress prio 7 protocol all u32 match u32 0 0 classid 1:1"))
		wantAllByEth1(t, n, n.Server)
		found := p.Doctor(0).Of("tc-programs", "")
		if told := found.With("note", "qdisc add dev ... ingress"); len(told) > 0 != (err != nil) {
			t.Errorf("doctor tells of %+v", told)
		}
		for _, f := range p.Status().Features {
			if told := strings.Contains(f.Effect, "no ingress qdisc"); f.Name == "tcx" && told != (err != nil) {
				t.Errorf("the status tells of %q", f.Effect)
			}
		}
		if filters := found.With("ok", "filter u32 of priority 7 at ingress sees"); len(filters) != 1 || len(found.Of("tc-programs", "eth1")) != 1 {
			t.Errorf("doctor tells of the filter: %+v", found)
		}
	})
}

// wantAttached wants the metrics and /healthz to tell whether an interface has both programs.
func wantAttached(t *testing.T, p *product.Product, name string, attached bool) {
	t.Helper()
	want := 0
	if attached {
		want = len(hooks)
	}
	if got := attachedHooks(p, name); got != want {
		t.Errorf("replypath_interface_attached of %s adds up to %d, not to %d", name, got, want)
	}
	await.Eventually(t, fmt.Sprintf("/healthz knows that %s is attached: %v", name, attached), func() error { // its answer may be a second old
		_, err := p.Get("/healthz")
		if unhealthy := err != nil && strings.Contains(err.Error(), name); unhealthy == attached {
			return fmt.Errorf("/healthz: %w", err)
		}
		return nil
	})
}

// attachedHooks returns on how many hooks of an interface the metrics show a program.
func attachedHooks(p *product.Product, name string) int {
	return int(p.Metrics().Sum("replypath_interface_attached", "interface="+name))
}

// wantRepairs wants each of the repairs to have come in time, and all to be counted.
func wantRepairs(t *testing.T, p *product.Product, took []time.Duration) {
	t.Helper()
	for _, one := range took {
		if one > await.Patient(backWithin) {
			t.Errorf("back after %s", one)
		}
	}
	if repairs := p.Metrics().Sum("replypath_host_repairs_total", "object=program"); repairs != float64(len(took)) {
		t.Errorf("%v repairs are counted", repairs)
	}
}
