// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"replypath/cmd/replypath/daemon"
	"replypath/cmd/replypath/show"
	"replypath/cmd/replypath/top"
	"replypath/loader"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/detach"
	"replypath/loader/discover"
	"replypath/loader/doctor"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/explain"
	"replypath/loader/finding"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/loader/plan"
	"replypath/loader/status"
	"replypath/loader/trace"
	"replypath/test/fakehost"
)

// fakeHost is what the commands reach the fake host through.
func fakeHost() host {
	return host{
		daemon: daemon.Host{
			Start:        fakeStart,
			TakeBack:     func(dir string, _ *slog.Logger) (bool, error) { return true, fakehost.DirError(dir) },
			Confirm:      fakeConfirm,
			EndObserver:  func(context.Context, string) (int, error) { return 0, nil },
			Signals:      func() (reload, end <-chan os.Signal, stop func()) { return nil, nil, func() {} },
			TrialSignals: func() (<-chan os.Signal, func()) { return nil, func() {} },
			Stdin:        strings.NewReader(""),
			Notify:       func(string) error { return nil },
		},
		detach:  fakeDetach,
		scan:    fakeScan,
		status:  fakeStatus,
		mode:    func(dir string) (string, error) { return "enforce", fakehost.DirError(dir) },
		setMode: fakeSetMode,
		flows:   func(dir string) (show.FlowTable, error) { return &fakeFlows{}, fakehost.DirError(dir) },
		explain: fakeExplain,
		trace:   fakeTrace,
		probe:   func(peer, _ netip.Addr) (show.Probe, error) { return fakeProbe{peer}, nil },
		top:     func(dir string, o flows.Order, limit int) top.Look { return fakehost.Top(dir, o, limit) },
		examine: fakeFindings,
		plan:    fakePlan,
	}
}

// fakeScan is that of a host with eth0, eth1 and the tunnel tun0.
func fakeScan(cfg *config.Config) (r discover.Result, err error) {
	there := []string{"eth0", "eth1", "tun0"}
	for _, i := range cfg.Interfaces {
		if !slices.Contains(there, i.Name) && !config.IsGlob(i.Name) {
			r.Missing = append(r.Missing, i.Name)
			r.Warnings = append(r.Warnings, "interface "+i.Name+" is not there yet: it is managed once it appears")
		}
	}
	for _, name := range there {
		i := slices.IndexFunc(cfg.Interfaces, func(i config.Interface) bool { return config.Match(i.Name, name) })
		if i < 0 {
			r.Unmanaged = append(r.Unmanaged, status.Unmanaged{Name: name, Reason: "not named by the configuration"})
			continue
		}
		settings := cfg.Interfaces[i]
		settings.Mode, settings.HostModel = cmp.Or(settings.Mode, cfg.Mode), cmp.Or(settings.HostModel, cfg.HostModel)
		r.Interfaces = append(r.Interfaces, discover.Interface{Name: name, Settings: settings})
	}
	return r, nil
}

// fakeStart refuses: a datapath to keep is in daemon/daemon_test.go.
func fakeStart(o loader.Options) (daemon.Datapath, error) {
	if o.PinDir == fakehost.WatchedDir {
		return nil, &pins.OwnedError{Dir: o.PinDir, PID: 4711}
	}
	return nil, fmt.Errorf("attach to eth0: %w", attach.ErrUnsupported)
}

func fakeDetach(_ context.Context, o detach.Options) ([]string, error) {
	switch {
	case o.PinDir == fakehost.WatchedDir && !o.Stop:
		return nil, &pins.OwnedError{Dir: o.PinDir, PID: 4711}
	case o.PinDir == fakehost.ForeignDir:
		return nil, fakehost.DirError(o.PinDir)
	case fakehost.DirError(o.PinDir) != nil:
		return nil, nil
	}
	return []string{"program replypath_ingress on eth1", "pins in " + o.PinDir}, nil
}

func fakeConfirm(_ context.Context, dir string) error {
	if dir == fakehost.WatchedDir {
		return nil
	}
	return fmt.Errorf("nothing is on trial in %s: start replypath try", dir)
}

func fakeStatus(dir string) (*status.Status, error) {
	if err := fakehost.DirError(dir); errors.Is(err, pins.ErrNone) {
		return &status.Status{PinDir: dir, Health: finding.HealthOf([]finding.Finding{
			fakeFinding(finding.Warning, "addresses", "eth1", "10.4.0.100 on eth1: replies leave by eth0"),
			fakeFinding(finding.Note, "attached", "", "nothing is attached: start replypath run"),
		})}, err
	} else if err != nil {
		return nil, err
	}
	s := &status.Status{Mode: "enforce", PinDir: dir, Flows: status.Flows{Count: 12, Capacity: 262144}, Health: finding.HealthOf(nil)}
	switch dir {
	case fakehost.IdleDir:
		return s, nil
	case fakehost.HealthyDir, fakehost.StrongDir:
		return healthyStatus(s, dir == fakehost.StrongDir), nil
	}
	s.Counted = status.Counted{Totals: counters.Totals{Corrected: 1234, WouldCorrect: 7, Lost: 200, Uncorrected: map[string]uint64{"mtu": 8, "bound_device": 1}}}
	s.Config = status.Config{
		Path:     new("/etc/replypath/replypath.yaml"),
		LoadedAt: new(time.Date(2026, time.March, 1, 12, 30, 0, 0, time.UTC)),
	}
	s.Interfaces = []status.Interface{
		{
			Name: "eth0", Index: 2, Role: status.RoleRecords, Up: true, Attached: true, Mechanism: new("tcx"), Mode: "enforce", HostModel: "weak", NextHop: "auto",
			Gateways: []status.Gateway{{Address: "10.3.0.1", MAC: new("02:00:00:00:00:01"), State: "reachable"}},
			RPFilter: new(2), Flows: 12,
		},
		{
			Name: "eth1", Index: 3, Role: status.RoleRecords, Up: false, Attached: false, Mode: "observe", HostModel: "weak", NextHop: "last-hop",
			Gateways: []status.Gateway{{Address: "fe80::1", State: "none"}},
		},
	}
	s.Unmanaged = []status.Unmanaged{{Name: "lo", Reason: "loopback"}}
	s.Features = []status.Feature{{Name: "tcx", Available: true, Effect: "programs are replaced without a gap"}}
	s.HostChanges = []status.HostChange{{
		Object: "sysctl net.ipv4.conf.eth0.rp_filter", Before: "1", After: "2", Undo: "sysctl -w net.ipv4.conf.eth0.rp_filter=1",
	}}
	s.WouldChange = []status.WouldChange{{Object: "sysctl net.ipv4.conf.eth1.rp_filter", Before: "1", After: "2"}}
	s.Health = finding.HealthOf([]finding.Finding{
		fakeFinding(finding.Error, "attached", "eth1", "eth1 is down and not attached"),
		fakeFinding(finding.Error, "wrong-way", "", "replies were lost: 200 packets moved and never seen leaving"),
		fakeFinding(finding.Warning, "configuration", "", "a later configuration was refused, the one before stays"),
		fakeFinding(finding.Note, "kernel", "", "without tcx: it takes longer"),
	})
	if dir == fakehost.WatchedDir {
		s.Daemon = status.Daemon{Running: true, PID: new(4711), Version: new("1.2.3"), Passed: time.Now()}
		s.Config.Error = new("/etc/replypath/replypath.yaml:1: mode: 1 is not one of enforce, observe")
		s.Errors = []string{"metrics: serve metrics at 127.0.0.1:9945: address already in use"}
	}
	return s, nil
}

func fakeFinding(severity finding.Severity, check, device, found string) finding.Finding {
	f := finding.Seen(severity, device, found, "ip link show")
	f.Check, f.Subject, f.Anchor = check, device, "troubleshooting.md#check-"+check
	return f
}

// healthyStatus is that of a host with two interfaces, both of which enforce. A mixed one has eth1 observe, and the
// strong host model there.
func healthyStatus(s *status.Status, mixed bool) *status.Status {
	s.Daemon = status.Daemon{Running: true, PID: new(4711), Version: new("1.2.3"), Passed: time.Now()}
	s.Counted = status.Counted{Since: new(time.Date(2026, time.March, 1, 12, 30, 0, 0, time.UTC)), Totals: counters.Totals{Corrected: 550}}
	s.Interfaces = []status.Interface{
		{
			Name: "eth0", Index: 2, Role: status.RoleRecords, Up: true, Attached: true, Mechanism: new("tcx"), Mode: "enforce", HostModel: "weak",
			NextHop: "auto", RPFilter: new(2), Flows: 5,
			Gateways: []status.Gateway{
				{Address: "10.3.0.1", MAC: new("02:00:00:00:00:01"), State: "reachable"},
				{Address: "fe80::5054:ff:fe12:3456", MAC: new("02:00:00:00:00:01"), State: "stale"},
			},
		},
		{
			Name: "eth1", Index: 3, Role: status.RoleRecords, Up: true, Attached: true, Mechanism: new("tcx"), Mode: "enforce", HostModel: "weak",
			NextHop: "last-hop", RPFilter: new(0), Flows: 7,
		},
	}
	s.Features = []status.Feature{
		{Name: "tcx", Available: true, Effect: "programs are replaced without a gap"},
		{Name: "tail_calls", Available: !mixed, Effect: "programs call others"},
	}
	s.Unmanaged = []status.Unmanaged{{Name: "lo", Reason: "loopback"}}
	s.SenderCount, s.Senders = 2, []flows.Sender{{
		Interface: "eth0", MAC: new("02:00:00:00:00:09"), Self: "10.3.0.100", Way: flows.WayLastHop,
		LearntAt: time.Date(2026, time.March, 1, 12, 30, 0, 0, time.UTC), HeardAt: time.Date(2026, time.March, 1, 18, 30, 0, 0, time.UTC),
	}}
	s.HostChanges = []status.HostChange{{
		Object: "ipv6 default route by eth1 for sockets that are bound to it", Before: "none",
		After: "via fe80::7265:706c:7900 with metric 4294967295", Undo: "ip -6 route del default via fe80::7265:706c:7900 dev eth1",
	}}
	if mixed {
		s.Interfaces[1].Mode, s.Interfaces[1].HostModel = "observe", "strong"
		s.Counted.WouldCorrect = 42
	}
	return s
}

// fakeFindings are those of a host with an error, of one with two (fakehost.WatchedDir), and of one where nothing is
// left to be done (fakehost.LonelyDir).
func fakeFindings(o doctor.Options) ([]doctor.Finding, error) {
	if o.PinDir == fakehost.ForeignDir {
		return nil, fakehost.DirError(fakehost.ForeignDir)
	}
	if o.Config == nil { // then it is the one in force
		o.ConfigPath = config.DefaultPath
	}
	strict := doctor.Finding{
		Check: "rp-filter", Severity: doctor.Error, Interface: new("eth1"),
		Found: "rp_filter of eth1 is strict (all 0, device 1)", Fix: new("sysctl -w net.ipv4.conf.eth1.rp_filter=2"),
	}
	gateway := doctor.Finding{
		Check: "gateway", Severity: doctor.Error, Interface: new("eth0"), Found: "gateway 10.3.0.1 is failed",
		Inspect: new("ip neigh show 10.3.0.1 dev eth0"), Owner: new("a DHCP client"),
	}
	xdp := doctor.Finding{Check: "xdp", Severity: doctor.OK, Found: "no xdp program"}
	refused := doctor.Finding{
		Check: "configuration", Severity: doctor.Warning, Found: o.ConfigPath + ": 1: mode: 1 is not one of enforce, observe",
		Inspect: new("replypath check --config " + o.ConfigPath),
	}
	// What is in order and somebody's is shown, too.
	tunnel := doctor.Finding{
		Check: "unnamed-tunnel", Severity: doctor.OK, Interface: new("gre1"),
		Found:   "a tunnel without a global address: replies to what it brings leave as routed. If these belong there, add {name: gre1} under interfaces",
		Inspect: new("ip -details link show dev gre1"),
	}
	eth0 := doctor.Finding{Check: "rp-filter", Severity: doctor.OK, Interface: new("eth0"), Found: "rp_filter: all 0, device 0, effective 0"}
	switch o.PinDir {
	case fakehost.WatchedDir:
		return []doctor.Finding{gateway, strict, refused, eth0, xdp}, nil
	case fakehost.LonelyDir:
		return []doctor.Finding{eth0, xdp}, nil
	}
	return []doctor.Finding{strict, refused, tunnel, eth0, xdp}, nil
}

// fakeFlows is a table with one flow of each kind.
type fakeFlows struct{}

func (*fakeFlows) matching(filter flows.Filter) []flows.Flow {
	var list []flows.Flow
	for _, flow := range fakehost.FlowList() {
		named := filter.Interface == "" || flow.Interface != nil && *flow.Interface == filter.Interface
		ofProtocol := filter.Protocol == nil || flow.Protocol == config.ProtocolName(*filter.Protocol)
		if named && ofProtocol && (flow.Asymmetric || !filter.Asymmetric) && (filter.Limit == 0 || len(list) < filter.Limit) {
			list = append(list, flow)
		}
	}
	return list
}

func (f *fakeFlows) Show(l flows.Listing, each func([]flows.Flow) error) error {
	filter := l.Filter
	filter.Limit = 0
	list := f.matching(filter)
	byTuple := func(a, b flows.Flow) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Family, b.Family))
	}
	slices.SortStableFunc(list, byTuple)
	slices.SortStableFunc(list, func(a, b flows.Flow) int {
		switch l.Order {
		case flows.ByAge:
			return cmp.Compare(a.AgeSeconds, b.AgeSeconds)
		case flows.ByCorrected:
			return cmp.Compare(b.CorrectedPackets, a.CorrectedPackets)
		case flows.ByBytes:
			return cmp.Compare(bytesOf(&b), bytesOf(&a))
		}
		return 0
	})
	for n := range list {
		if !l.Bytes && l.Order != flows.ByBytes {
			list[n].Bytes = nil
		}
	}
	if l.Limit > 0 {
		list = list[:min(len(list), l.Limit)]
	}
	return each(list)
}

// bytesOf is less where they are not known.
func bytesOf(f *flows.Flow) int {
	if f.Bytes == nil {
		return -1
	}
	return int(*f.Bytes)
}

func (f *fakeFlows) Flush(filter flows.Filter) (flows.Flushed, error) {
	return flows.Flushed{Flows: len(f.matching(filter)), Senders: 1}, nil
}

// Follow reports every flow as new, and then waits.
func (f *fakeFlows) Follow(ctx context.Context, filter flows.Filter, _ time.Duration, each func(flows.Flow) error) error {
	for _, flow := range f.matching(filter) {
		flow.Event = flows.EventNew
		if err := each(flow); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

func (*fakeFlows) CheckInterface(name string) error {
	if name == "eth0" || name == "eth1" {
		return nil
	}
	return fmt.Errorf("%w %s: replypath manages eth0, eth1", flows.ErrInterface, name)
}

func (*fakeFlows) Close() error { return nil }

// fakeSetMode switches where a daemon runs, and where none does.
func fakeSetMode(dir, _ string) (undone []string, err error) {
	if dir == fakehost.LonelyDir {
		undone = []string{"sysctl net.ipv4.conf.eth1.rp_filter", "device replypath0"}
	}
	return undone, fakehost.DirError(dir)
}

// fakeExplain knows the flows of fakeFlows; of what is no flow the host has no route to IPv6.
func fakeExplain(dir string, q explain.Question) (*explain.Answer, error) {
	if err := fakehost.DirError(dir); err != nil {
		return nil, err
	}
	answer := &explain.Answer{
		Explanation: explain.Explanation{
			Family: "ipv4", Peer: q.Peer.Addr().String(), PeerPort: q.Peer.Port(), Self: q.Self.Addr().String(), SelfPort: q.Self.Port(),
			Kernel:  explain.Kernel{Interface: new("eth0"), Gateway: new("10.3.0.1"), NextHopMAC: new("02:00:00:00:00:03"), Table: new(254)},
			Verdict: explain.NoFlow, Detail: "no flow is recorded: it goes as the kernel routes it, until the peer sends something",
			LeavesBy: new("eth0"),
		},
		Others: []explain.Explanation{},
	}
	if q.Peer.Addr().Is6() {
		answer.Family, answer.Kernel = "ipv6", explain.Kernel{Error: new("network is unreachable")}
		answer.LeavesBy = nil
		return answer, nil
	}
	flow := fakehost.FlowList()[1]
	if q.Peer.Addr().String() != flow.Peer {
		return answer, nil
	}
	answer.Protocol, answer.PeerPort, answer.SelfPort, answer.Flow = &flow.Protocol, flow.PeerPort, flow.SelfPort, &flow
	answer.Replypath = explain.Way{Interface: flow.Interface, NextHopMAC: flow.NextHopMAC, Gateway: flow.Gateway}
	answer.Verdict, answer.LeavesBy = explain.Corrected, flow.Interface
	answer.Detail = "the reply would leave by eth1, by which its flow arrived"
	answer.Seen = new(time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC))
	other := answer.Explanation
	other.PeerPort, other.Verdict, other.Reason, other.LeavesBy = 50001, explain.Fallback, new("bound_device"), new("eth0")
	answer.Matches = 1
	if q.Peer.Port() == 0 {
		answer.Matches = 3
		answer.Others = slices.Repeat([]explain.Explanation{other}, min(q.Limit, answer.Matches)-1)
	}
	return answer, nil
}

// fakeTrace tells of a question and its answer, one of which is moved, and of an echo of the host's own; then three
// events are lost.
func fakeTrace(ctx context.Context, dir string, filter trace.Filter, o trace.Observer) error {
	if err := fakehost.DirError(dir); err != nil {
		return err
	}
	o.Ready()
	for _, p := range fakehost.Packets() {
		if ctx.Err() != nil {
			return nil
		}
		if peer := netip.MustParseAddr(p.Peer); filter.Peer.IsValid() && !filter.Peer.Contains(peer) {
			continue
		}
		if err := o.Packet(p); err != nil {
			return err
		}
	}
	o.Lost(3)
	return nil
}

type fakeProbe struct{ peer netip.Addr }

func (p fakeProbe) Send() error {
	if p.peer == netip.MustParseAddr("192.0.2.1") {
		return errors.New("send a probe to 192.0.2.1: network is unreachable")
	}
	return nil
}

func (p fakeProbe) IsOf(packet *trace.Packet) bool { return packet.Peer == p.peer.String() }
func (p fakeProbe) Close() error                   { return nil }

// fakePlan is that of a replica with a rule; blocked where a gateway is silent, and of nothing on a lonely host.
func fakePlan(_ context.Context, o plan.Options) (*plan.Plan, error) {
	if o.PinDir == fakehost.ForeignDir {
		return nil, fakehost.DirError(fakehost.ForeignDir)
	}
	made := time.Date(2026, time.November, 25, 12, 0, 0, 0, time.UTC)
	p := &plan.Plan{
		Verdict: plan.NothingToDo, Summary: "nothing to do here", MadeAt: made, WouldMove: []snapshot.Row{}, Originated: []plan.Originated{},
		Rules: []plan.Rule{}, HostChanges: []status.WouldChange{}, Blockers: []doctor.Finding{},
	}
	if o.PinDir == fakehost.LonelyDir {
		return p, nil
	}
	p.Verdict, p.Summary, p.Attached = plan.Ready, "ready: replypath mode enforce", true
	watched := "now"
	if o.Watch > 0 {
		p.WatchedSince, p.Watched, watched = new(made.Add(-o.Watch)), o.Watch.Seconds(), "in the "+plan.Shortly(o.Watch)+" watched"
	}
	p.WouldMove = []snapshot.Row{
		fakeRow("10.4.0.100", 5432, "10.9.0.0/24", 12, 90*time.Second), fakeRow("2001:db8:4::100", 5432, "2001:db8:9::/64", 1, 30*time.Hour),
	}
	opened := fakeRow("10.4.0.100", 0, "10.9.0.0/24", 3, time.Second)
	opened.Originated, opened.PeerPort = true, 22
	p.Originated = []plan.Originated{{Row: opened, Remedy: "host_model: strong of eth1; or a route to 10.9.0.0/24 via 10.4.0.1 dev eth1"}}
	p.Rules = []plan.Rule{
		{Rule: "rule 100: from 10.4.0.100 lookup 101", Kind: plan.KindRule, Verdict: plan.Needed, Connections: 12, Peers: []string{"10.9.0.0/24"},
			Reason: "this host opened 3 connections from 10.4.0.100 " + watched + "; host_model: strong would send listed protocols by eth1"},
		{Rule: "rule 1000: from all", Kind: plan.KindRule, Verdict: plan.Foreign, Reason: "it gives each VRF its table", Owner: new("the kernel")},
		{Rule: "rule 200: from 2001:db8:4::100 lookup 101", Kind: plan.KindRule, Verdict: plan.NotNeeded,
			Restore: new("ip -6 rule add pref 200 from 2001:db8:4::100 lookup 101"),
			Reason:  "once replypath enforces on all interfaces: replypath sends the replies, and this host opened nothing from 2001:db8:4::100 " + watched},
	}
	p.HostChanges = []status.WouldChange{{Object: "sysctl net.ipv4.conf.eth1.rp_filter", Before: "1", After: "2"}}
	if o.PinDir == fakehost.WatchedDir {
		p.Verdict, p.Summary = plan.Blocked, "blocked: gateway: gateway 10.4.0.1 is failed"
		p.Blockers = []doctor.Finding{{Check: "gateway", Severity: doctor.Error, Interface: new("eth1"), Found: "gateway 10.4.0.1 is failed", Inspect: new("ip neigh show 10.4.0.1 dev eth1")}}
	}
	return p, nil
}

func fakeRow(self string, port uint16, peer string, flows uint64, ago time.Duration) snapshot.Row {
	made := time.Date(2026, time.November, 25, 12, 0, 0, 0, time.UTC)
	return snapshot.Row{
		Key: snapshot.Key{
			Self: netip.MustParseAddr(self), SelfPort: port, Protocol: "tcp", Peer: netip.MustParsePrefix(peer), FromInterface: "eth0", ToInterface: "eth1",
		},
		Flows: flows, Packets: snapshot.Count(1000 * flows), FirstSeen: made.Add(-49 * time.Hour), LastSeen: made.Add(-ago),
	}
}
