// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/detach"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// server is host B of the network S1, on which a datapath is put in place.
type server struct {
	*testing.T
	net        *topology.S1
	host       *topology.Host
	eth0, eth1 *topology.Interface
	dir        string
	log        *await.Log
	object     *datapath.Object // nil for the product's own
	opened     *bpf.Maps
}

// newServer returns one whose programs are hollow, for what is not about packets. Most of a test's time is the kernel's:
// others run beside it.
func newServer(t *testing.T) *server {
	t.Helper()
	t.Parallel()
	return newServerAlone(t)
}

// newServerAlone is newServer for a test with no other beside it.
func newServerAlone(t *testing.T) *server {
	t.Helper()
	b := newServerIn(t, topology.S1Options{})
	b.object = hollow("a build")
	return b
}

// newAnsweringServer returns one with the product's programs.
func newAnsweringServer(t *testing.T) *server {
	t.Helper()
	t.Parallel()
	return newServerIn(t, topology.S1Options{})
}

func newServerIn(t *testing.T, options topology.S1Options) *server {
	t.Helper()
	s := traffic.NewS1(t, options)
	b := &server{
		T: t, net: s, host: s.B.Host, eth0: s.B.Eth0, eth1: s.B.Eth1, log: new(await.Log),
		dir: filepath.Join("/sys/fs/bpf", strings.ReplaceAll(t.Name(), "/", "-")),
	}
	t.Cleanup(func() {
		b.detach()
		if t.Failed() {
			t.Logf("log:\n%s", b.log)
		}
	})
	return b
}

// mechanisms are the ways to attach that the kernel has.
var mechanisms = []attach.Mechanism{attach.TCX, attach.Clsact}

func byEach(t *testing.T, run func(t *testing.T, mechanism attach.Mechanism)) {
	for _, mechanism := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) { run(t, mechanism) })
	}
}

func by(mechanism attach.Mechanism) func(*Options) {
	return func(o *Options) { o.Mechanism = mechanism }
}

func byClsact(o *Options) { o.Mechanism = attach.Clsact }

func larger(o *Options) { o.Config.MaxEntries *= 2 }

func largerConfig(c *config.Config) { c.MaxEntries *= 2 }

// lastHop manages one interface and answers to the MAC that asked.
func lastHop(name string) func(*Options) {
	return func(o *Options) {
		o.Config.Interfaces = []config.Interface{{Name: name, NextHop: config.NextHopLastHop}}
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	await.Eventually(t, what, func() error {
		if !holds() {
			return errors.New("in vain")
		}
		return nil
	})
}

func within(t *testing.T) context.Context {
	t.Helper()
	return await.Within(t, await.AnswerTime)
}

// logged counts how often a text is in the log.
func (b *server) logged(part string) int { return strings.Count(b.log.String(), part) }

func (b *server) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// newConfig is the default with small tables, which are read quickly.
func newConfig() *config.Config {
	cfg := config.Default()
	cfg.MaxEntries = 1 << 12
	return cfg
}

func (b *server) options(changes ...func(*Options)) Options {
	o := Options{PinDir: b.dir, Config: newConfig(), Log: b.logger(), Version: "test", object: b.object}
	for _, change := range changes {
		change(&o)
	}
	return o
}

// inside runs fn in the host's network namespace.
func (b *server) inside(fn func() error) {
	b.Helper()
	await.Must(b.T, b.host.Do(fn))
}

// read reads something in the host's network namespace.
func read[T any](b *server, fn func() (T, error)) (result T) {
	b.Helper()
	b.inside(func() (err error) {
		result, err = fn()
		return err
	})
	return result
}

// running is a loader that runs.
type running struct {
	*Loader
	b     *server
	leave context.CancelFunc
	ended chan error
}

// start puts a datapath in place and keeps it current until the test stops it or ends.
func (b *server) start(changes ...func(*Options)) *running {
	b.Helper()
	r, err := b.tryStart(changes...)
	await.Must(b.T, err)
	return r
}

func (b *server) tryStart(changes ...func(*Options)) (*running, error) {
	return b.tryStartBy(New, changes...)
}

// tryStartBy is tryStart with something else than New. The maps may be others after it.
func (b *server) tryStartBy(start func(Options) (*Loader, error), changes ...func(*Options)) (*running, error) {
	if b.object == nil {
		defer product.Starting(b.T)()
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{b: b, leave: cancel, ended: make(chan error, 1)}
	started := make(chan error)
	go func() {
		r.ended <- b.host.Do(func() error {
			var err error
			r.Loader, err = start(b.options(changes...))
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
	b.opened = nil
	b.Cleanup(r.stop)
	return r, nil
}

// stop ends the loader as a signal does.
func (r *running) stop() {
	r.b.Helper()
	if r.leave == nil {
		return
	}
	r.leave()
	r.leave = nil
	if err := <-r.ended; err != nil {
		r.b.Errorf("end the loader: %v", err)
	}
}

// reload changes the configuration that the tests begin with. The maps may be others after it.
func (r *running) reload(changes ...func(*config.Config)) error {
	r.b.opened = nil
	cfg := newConfig()
	for _, change := range changes {
		change(cfg)
	}
	return r.b.host.Do(func() error { return r.Reload(cfg) })
}

// locked does something in the host's network namespace while the loader does nothing.
func (r *running) locked(do func() error) {
	r.b.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b.inside(do)
}

// verifyNow does what the slow timer does.
func (r *running) verifyNow() {
	r.b.Helper()
	r.locked(func() error {
		r.verifying = true
		r.source.LookAgain()
		if !r.reconcileOrLog() { // which takes back what an earlier look of the daemon's own has told
			return errors.New(strings.Join(r.problems.All(), "; "))
		}
		return nil
	})
}

func (b *server) detach() []string {
	b.Helper()
	return read(b, func() ([]string, error) { return b.tryDetach(false) })
}

// tryDetach is detach for one that may be refused, in the network namespace of the calling thread.
func (b *server) tryDetach(stop bool) (removed []string, err error) {
	return detach.Run(context.Background(), detach.Options{PinDir: b.dir, Stop: stop, Log: b.logger()})
}

// takeBack ends the trial that this process has begun, and tells whether it did.
func (b *server) takeBack() bool {
	b.Helper()
	return read(b, func() (bool, error) { return detach.TakeBack(b.dir, b.logger()) })
}

// shown is a status that interfaces are looked up in.
type shown struct{ *status.Status }

func (b *server) status() shown {
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

func (b *server) awaitAttached(name string) *status.Interface {
	b.Helper()
	var i *status.Interface
	eventually(b.T, name+" is attached", func() bool {
		i = b.status().of(name)
		return i != nil && i.Attached
	})
	return i
}

func (b *server) awaitGone(name string) {
	b.Helper()
	eventually(b.T, name+" is gone", func() bool { return b.status().of(name) == nil })
}

func (b *server) flows() []flows.Flow {
	b.Helper()
	return read(b, func() ([]flows.Flow, error) {
		table, err := flows.Open(b.dir)
		if err != nil {
			return nil, err
		}
		list, err := table.List(flows.Filter{})
		return list, errors.Join(err, table.Close())
	})
}

func (b *server) mode() string {
	b.Helper()
	return read(b, func() (string, error) { return status.Mode(b.dir) })
}

func (b *server) setMode(mode string) {
	b.Helper()
	b.inside(func() error { _, err := status.SetMode(b.dir, mode); return err })
	await.Same(b, "mode", mode, b.mode())
}

func (b *server) journal() *pins.Journal {
	b.Helper()
	return read(b, func() (*pins.Journal, error) { return pins.ReadJournal(b.dir) })
}

func (b *server) repairs(object string) uint64 {
	b.Helper()
	return b.journal().Repairs[object]
}

func (b *server) awaitRepairs(object string, want uint64) {
	b.Helper()
	eventually(b.T, "the repair is written down", func() bool { return b.repairs(object) == want })
}

// idsOf returns the ids that interfaces of this name have or had.
func (b *server) idsOf(name string) (ids []uint16) {
	b.Helper()
	for _, r := range b.journal().Interfaces {
		if r.Name == name {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// maps opens the pinned maps, until the end of the test.
func (b *server) maps() *bpf.Maps {
	b.Helper()
	if b.opened == nil {
		opened, err := datapath.OpenMaps(b.dir)
		await.Must(b.T, err)
		b.Cleanup(func() { opened.Close() })
		b.opened = opened
	}
	return b.opened
}

// entries returns what a map holds.
func entries[K comparable, V any](b *server, m *ebpf.Map) map[K]V {
	b.Helper()
	all := make(map[K]V)
	var (
		key   K
		value V
	)
	i := m.Iterate()
	for i.Next(&key, &value) {
		all[key] = value
	}
	await.Must(b.T, i.Err())
	return all
}

func (b *server) settings() bpf.DatapathSettings {
	b.Helper()
	var settings bpf.DatapathSettings
	await.Must(b.T, b.maps().Configuration.Get(&settings))
	return settings
}

// rules are the settings but for their generations, which only rise.
func (b *server) rules() bpf.DatapathSettings {
	b.Helper()
	rules := b.settings()
	rules.Generation, rules.RoutingGeneration = 0, 0
	return rules
}

// entry returns what the programs know of an interface.
func (b *server) entry(index int) bpf.DatapathInterface {
	b.Helper()
	var entry bpf.DatapathInterface
	await.Must(b.T, b.maps().Interfaces.Lookup(bpf.PlaceOf(index), &entry))
	return entry
}

func (b *server) isUp(index int) bool {
	b.Helper()
	return b.entry(index).Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP) != 0
}

// mapIDs tells the pinned maps apart from others of the same names.
func (b *server) mapIDs() map[string]ebpf.MapID {
	b.Helper()
	ids := make(map[string]ebpf.MapID)
	files, err := filepath.Glob(filepath.Join(b.dir, "maps", "*"))
	await.Must(b.T, err)
	for _, file := range files {
		switch filepath.Base(file) {
		case "programs", "layout", "verified": // pinned anew by every start
			continue
		}
		m, err := ebpf.LoadPinnedMap(file, nil)
		await.Must(b.T, err)
		info, err := m.Info()
		await.Must(b.T, err)
		ids[filepath.Base(file)], _ = info.ID()
		await.Must(b.T, bpf.Close(m))
	}
	return ids
}

// ping has A ask the address of eth1, in both families.
func (b *server) ping() {
	b.Helper()
	for _, f := range b.net.Families() {
		if _, err := b.net.A.Ping(within(b.T), topology.Echo{To: b.eth1.Address(f)}); err != nil {
			b.Fatalf("%s: %v", f, err)
		}
	}
}

// snapshot is everything on the host that anything of a datapath could change, as an operator's tools show it.
func (b *server) snapshot() host.Snapshot {
	b.Helper()
	return host.TakeSnapshot(b.T, b.host, "eth0", "eth1")
}

// trace is what is visible of a datapath on a host: everything that detach has to take away.
func (b *server) trace() (seen []string) {
	b.Helper()
	for _, device := range b.links() {
		name := device.Attrs().Name
		seen = append(seen, name+" rp_filter "+b.rpFilter(name))
		qdiscs, err := b.host.Netlink().QdiscList(device)
		await.Must(b.T, err)
		for _, q := range qdiscs {
			seen = append(seen, name+" qdisc "+q.Type())
		}
		seen = append(seen, name+" tcx programs "+strconv.Itoa(b.tcxPrograms(device)))
		for _, hook := range hooks {
			for _, f := range b.filters(device, hook) {
				seen = append(seen, name+" filter "+f.Type()+" "+strconv.Itoa(int(f.Attrs().Priority)))
			}
		}
	}
	slices.Sort(seen)
	return seen
}

func (b *server) links() []netlink.Link {
	b.Helper()
	return await.Must1[[]netlink.Link](b.T)(b.host.Netlink().LinkList())
}

func (b *server) linkOf(name string) netlink.Link {
	b.Helper()
	return await.Must1[netlink.Link](b.T)(b.host.Netlink().LinkByName(name))
}

// filters returns those of a hook, none where there is no clsact qdisc.
func (b *server) filters(device netlink.Link, hook uint32) []netlink.Filter {
	filters, _ := b.host.Netlink().FilterList(device, hook)
	return filters
}

// tcx are the hooks of TCX, hooks those of clsact.
var (
	tcx   = []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress}
	hooks = []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS}
)

// tcxPrograms counts the TCX programs of an interface, whoever's they are.
func (b *server) tcxPrograms(device netlink.Link) (count int) {
	b.Helper()
	for _, hook := range tcx {
		count += len(b.queryTCX(device, hook).Programs)
	}
	return count
}

// queryTCX returns what is at a hook, in the order in which it runs.
func (b *server) queryTCX(device netlink.Link, hook ebpf.AttachType) *link.QueryResult {
	b.Helper()
	if !slices.Contains(mechanisms, attach.TCX) {
		return new(link.QueryResult)
	}
	return read(b, func() (*link.QueryResult, error) {
		return link.QueryPrograms(link.QueryOptions{Target: device.Attrs().Index, Attach: hook})
	})
}

// wantNoPins wants no pin directory.
func (b *server) wantNoPins(when string) {
	b.Helper()
	if _, err := os.Stat(b.dir); !errors.Is(err, fs.ErrNotExist) {
		b.Errorf("%s: the pin directory: %v", when, err)
	}
}

func (b *server) wantNoErrors() {
	b.Helper()
	if errs := b.status().Errors; len(errs) > 0 {
		b.Errorf("errors %q", errs)
	}
}

// wantNoPrograms wants nothing of ours attached to any interface.
func (b *server) wantNoPrograms() {
	b.Helper()
	for _, line := range b.trace() {
		if strings.Contains(line, "filter bpf") || strings.Contains(line, "programs 1") || strings.Contains(line, "programs 2") {
			b.Errorf("left: %s", line)
		}
	}
}

func (b *server) sysctl(key string) string {
	b.Helper()
	return await.Must1[string](b.T)(b.host.Sysctl(key))
}

func (b *server) setSysctl(key, value string) {
	b.Helper()
	await.Must(b.T, b.host.SetSysctl(key, value))
}

func (b *server) rpFilter(name string) string {
	b.Helper()
	return b.sysctl("net/ipv4/conf/" + name + "/rp_filter")
}

func (b *server) wantRPFilter(when, name, want string) {
	b.Helper()
	if got := b.rpFilter(name); got != want {
		b.Errorf("%s, rp_filter of %s is %s, want %s", when, name, got, want)
	}
}

func (b *server) setRPFilter(name string, value int) {
	b.Helper()
	b.setSysctl("net/ipv4/conf/"+name+"/rp_filter", strconv.Itoa(value))
}

// ip changes the host with the lines of a batch for ip(8).
func (b *server) ip(batch string) {
	b.Helper()
	host.IPBatch(b.T, b.host, batch)
}

// tc changes the host by tc(8).
func (b *server) tc(line string) {
	b.Helper()
	host.Shell(b.T, b.host, "tc "+line)
}

// addEth2 adds an interface with addresses; index 0 leaves its index to the kernel.
func (b *server) addEth2(index int) {
	b.Helper()
	which := ""
	if index != 0 {
		which = "index " + strconv.Itoa(index)
	}
	b.ip("link add eth2 " + which + ` type veth peer name far2
link set far2 up
link set eth2 up
addr add 10.77.0.1/24 dev eth2
addr add 2001:db8:77::1/64 dev eth2 nodad
`)
}
