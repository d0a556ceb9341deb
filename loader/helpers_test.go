// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/detach"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/test/harness"
	"replypath/test/topology"
)

// patienceOfTests is how long a test waits for what has to come.
const patienceOfTests = 10 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until a condition holds, which is looked at every few
// milliseconds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx := within(t)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("in vain: %s", what)
		}
	}
}

// newS1 builds the network of two servers; the datapath goes to B. Most of a
// test's time is the kernel's, so others run beside it.
func newS1(t *testing.T, options topology.S1Options) *topology.S1 {
	t.Helper()
	t.Parallel()
	return newS1Alone(t, options)
}

// newS1Alone is newS1 for a test with no other beside it.
func newS1Alone(t *testing.T, options topology.S1Options) *topology.S1 {
	t.Helper()
	s, err := topology.NewS1(within(t), options)
	harness.Must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the network: %v", err)
		}
	})
	return s
}

// log is what a loader has logged.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *log) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// bed is a host on which a datapath is put in place.
type bed struct {
	*testing.T
	host *topology.Host
	dir  string
	log  *log

	opened *bpf.DatapathMaps
}

func newBed(t *testing.T, host *topology.Host) *bed {
	t.Helper()
	b := &bed{T: t, host: host, dir: pinDir(t), log: new(log)}
	t.Cleanup(func() {
		b.detach()
		if t.Failed() {
			t.Logf("log:\n%s", b.log.text.String())
		}
	})
	return b
}

func (b *bed) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// inside runs fn in the host's network namespace.
func (b *bed) inside(fn func() error) {
	b.Helper()
	harness.Must(b.T, b.host.Do(fn))
}

// newConfig is the default with small tables, which are read quickly.
func newConfig() *config.Config {
	cfg := config.Default()
	cfg.MaxEntries = 1 << 12
	return cfg
}

func (b *bed) options(change func(*Options)) Options {
	o := Options{PinDir: b.dir, Config: newConfig(), Log: b.logger(), Version: "test"}
	if change != nil {
		change(&o)
	}
	return o
}

// running is a loader that runs.
type running struct {
	*Loader
	bed   *bed
	leave context.CancelFunc
	ended chan error
}

// start puts a datapath in place and keeps it current until the test stops it or
// ends.
func (b *bed) start(change func(*Options)) *running {
	b.Helper()
	r, err := b.tryStart(change)
	harness.Must(b.T, err)
	return r
}

func (b *bed) tryStart(change func(*Options)) (*running, error) { return b.tryStartBy(New, change) }

// tryStartBy is tryStart with something else than New.
func (b *bed) tryStartBy(start func(Options) (*Loader, error), change func(*Options)) (*running, error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{bed: b, leave: cancel, ended: make(chan error, 1)}
	started := make(chan error)
	go func() {
		r.ended <- b.host.Do(func() error {
			var err error
			r.Loader, err = start(b.options(change))
			started <- err
			if err != nil {
				return nil
			}
			if err := r.Loader.Run(ctx); err != nil {
				return err
			}
			return r.Loader.Close()
		})
	}()
	if err := <-started; err != nil {
		cancel()
		return nil, err
	}
	b.Cleanup(r.stop)
	return r, nil
}

// stop ends the loader as a signal does.
func (r *running) stop() {
	r.bed.Helper()
	if r.leave == nil {
		return
	}
	r.leave()
	r.leave = nil
	if err := <-r.ended; err != nil {
		r.bed.Errorf("end the loader: %v", err)
	}
}

func (r *running) reload(change func(*config.Config)) error {
	cfg := newConfig()
	change(cfg)
	return r.bed.host.Do(func() error { return r.Reload(cfg) })
}

func (b *bed) detach() []string {
	b.Helper()
	var removed []string
	b.inside(func() error {
		var err error
		removed, err = detach.Run(context.Background(), detach.Options{PinDir: b.dir, Log: b.logger()})
		return err
	})
	return removed
}

// shown is a status that interfaces are looked up in.
type shown struct{ *status.Status }

func (b *bed) status() shown {
	b.Helper()
	return shown{read(b, func() (*status.Status, error) { return status.Read(b.dir) })}
}

// of returns the status of a managed interface, nil for one that is not.
func (s shown) of(name string) *status.Interface { return named(s.Interfaces, name) }

func named(list []status.Interface, name string) *status.Interface {
	i := slices.IndexFunc(list, func(i status.Interface) bool { return i.Name == name })
	if i < 0 {
		return nil
	}
	return &list[i]
}

func (b *bed) journal() *pins.Journal {
	b.Helper()
	return read(b, func() (*pins.Journal, error) { return pins.ReadJournal(b.dir) })
}

// read reads something in the host's network namespace.
func read[T any](b *bed, fn func() (T, error)) (result T) {
	b.Helper()
	b.inside(func() (err error) {
		result, err = fn()
		return err
	})
	return result
}

// idsOf returns the ids that interfaces of this name have or had.
func (b *bed) idsOf(name string) []uint16 {
	b.Helper()
	var ids []uint16
	for _, r := range b.journal().Interfaces {
		if r.Name == name {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// maps opens the pinned maps, once and until the end of the test.
func (b *bed) maps() *bpf.DatapathMaps {
	b.Helper()
	if b.opened == nil {
		opened, err := datapath.OpenMaps(b.dir)
		harness.Must(b.T, err)
		b.Cleanup(func() { opened.Close() })
		b.opened = opened
	}
	return b.opened
}

// entry returns what the programs know of an interface.
func (b *bed) entry(id uint16) bpf.DatapathInterface {
	b.Helper()
	var entry bpf.DatapathInterface
	harness.Must(b.T, b.maps().Interfaces.Lookup(uint32(id), &entry))
	return entry
}

// gatewayOf returns what the programs know of a gateway.
func (b *bed) gatewayOf(address netip.Addr) (entry bpf.DatapathGateway, id uint16) {
	b.Helper()
	for _, r := range b.journal().Gateways {
		if r.Address == address.String() {
			harness.Must(b.T, b.maps().Gateways.Lookup(uint32(r.ID), &entry))
			return entry, r.ID
		}
	}
	b.Fatalf("gateway %s is not known", address)
	return entry, 0
}

// snapshot is everything on the host that anything of a datapath could change, as an
// operator's tools show it.
func (b *bed) snapshot() harness.Snapshot {
	b.Helper()
	return harness.TakeSnapshot(b.T, b.host, "eth0", "eth1")
}

// trace is what is visible of a datapath on a host: everything that detach has
// to take away.
func (b *bed) trace() []string {
	b.Helper()
	var seen []string
	b.inside(func() error {
		links, err := b.host.Netlink().LinkList()
		if err != nil {
			return err
		}
		for _, device := range links {
			lines, err := b.traceOf(device)
			if err != nil {
				return err
			}
			seen = append(seen, lines...)
		}
		return nil
	})
	slices.Sort(seen)
	return seen
}

func (b *bed) traceOf(device netlink.Link) ([]string, error) {
	name := device.Attrs().Name
	seen := []string{name + " rp_filter " + b.rpFilter(name)}
	programs, err := attachedPrograms(device.Attrs().Index)
	if err != nil {
		return nil, err
	}
	seen = append(seen, name+" tcx programs "+strconv.Itoa(programs))
	qdiscs, err := b.host.Netlink().QdiscList(device)
	if err != nil {
		return nil, err
	}
	for _, q := range qdiscs {
		seen = append(seen, name+" qdisc "+q.Type())
	}
	for _, direction := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := b.host.Netlink().FilterList(device, direction)
		if err != nil {
			continue // there is no clsact qdisc
		}
		for _, f := range filters {
			seen = append(seen, name+" filter "+f.Type()+" "+strconv.Itoa(int(f.Attrs().Priority)))
		}
	}
	return seen, nil
}

func (b *bed) rpFilter(name string) string {
	b.Helper()
	value, err := b.host.Sysctl("net/ipv4/conf/" + name + "/rp_filter")
	harness.Must(b.T, err)
	return value
}

func (b *bed) setRPFilter(name string, value int) {
	b.Helper()
	harness.Must(b.T, b.host.SetSysctl("net/ipv4/conf/"+name+"/rp_filter", strconv.Itoa(value)))
}

// ip changes the host with the lines of a batch for ip(8).
func (b *bed) ip(batch string) {
	b.Helper()
	harness.IPBatch(b.T, b.host, batch)
}

// tc changes the host with the lines of a batch for tc(8).
func (b *bed) tc(batch string) {
	b.Helper()
	c := b.host.Command(within(b.T), "tc", "-batch", "-")
	c.Stdin = strings.NewReader(batch)
	if out, err := c.CombinedOutput(); err != nil {
		b.Fatalf("tc: %v\n%s", err, out)
	}
}

// takeOff takes the programs off an interface behind the back of the loader, whose
// lock the caller holds.
func (b *bed) takeOff(r *running, name string) {
	b.Helper()
	b.inside(func() error {
		for _, s := range r.interfaces.All() {
			if s.Name == name {
				return r.attacher.Detach(s.Target())
			}
		}
		return errors.New("not served")
	})
}

// verifyNow does what the slow timer does.
func (r *running) verifyNow() {
	r.bed.Helper()
	r.bed.inside(func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.verifying = true
		r.source.LookAgain()
		return r.reconcile()
	})
}

// run runs a program on the host.
func (b *bed) run(name string, args ...string) {
	b.Helper()
	if out, err := b.host.Command(within(b.T), name, args...).CombinedOutput(); err != nil {
		b.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// lastHop manages one interface and answers to the MAC that asked.
func lastHop(name string) []config.Interface {
	return []config.Interface{{Name: name, NextHop: config.NextHopLastHop}}
}

func byClsact(o *Options) { o.Mechanism = attach.Clsact }

// byDefault is the mechanism of those who ask for none.
func byDefault() string {
	if _, has := mechanisms[attach.TCX]; has {
		return string(attach.TCX)
	}
	return string(attach.Clsact)
}

// attachedPrograms counts the TCX programs of an interface, whoever's they are.
func attachedPrograms(index int) (int, error) {
	if _, has := mechanisms[attach.TCX]; !has {
		return 0, nil
	}
	count := 0
	for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		result, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: hook})
		if err != nil {
			return 0, err
		}
		count += len(result.Programs)
	}
	return count, nil
}

// equalAddresses compares them by their value.
var equalAddresses = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
