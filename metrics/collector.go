// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// protocols that have a label value of their own, and the one for all others.
var protocols = []string{"tcp", "udp", "icmp", "icmpv6", "sctp", "other"}

// none stands in labels for an interface or a mechanism that there is not.
const none = "none"

// outbound is what [Notes] are called beside the flow tables.
const outbound = "outbound"

// collector shows a Source to Prometheus.
type collector struct {
	source  Source
	version string
}

// NewCollector returns a collector that reads source at every scrape. version is
// the product's, for replypath_build_info.
func NewCollector(source Source, version string) prometheus.Collector {
	return &collector{source: source, version: version}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, f := range families {
		descs <- f.desc
	}
}

// Collect implements [prometheus.Collector]. Where the source fails it sends one
// invalid metric, which makes the registry's Gather fail.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	s, err := c.source.Snapshot()
	if err == nil && s.Mode != ModeEnforce && s.Mode != ModeObserve {
		err = fmt.Errorf("unknown mode %q", s.Mode)
	}
	if err != nil {
		metrics <- prometheus.NewInvalidMetric(buildInfo.desc, fmt.Errorf("read the datapath: %w", err))
		return
	}
	out := sink(metrics)
	out.send(buildInfo, 1, c.version, runtime.Version())
	out.packets(s)
	out.flowTables(s)
	out.interfaces(s)
	out.host(s)
	out.settings(s)
	out.findings(s)
}

// findings sends how many there are of each check and severity, and what they rest on.
func (out sink) findings(s *Snapshot) {
	counts := make(map[Finding]int)
	for _, f := range s.Findings {
		counts[f]++
	}
	for f, count := range counts {
		out.send(findings, float64(count), f.Check, f.Severity)
	}
	for _, r := range s.Requests {
		for outcome, count := range map[string]int{"right": r.Right, "astray": r.Astray, "lost": r.Lost, "unanswered": r.Unanswered} {
			out.send(recentRequests, float64(count), r.Interface, outcome)
		}
	}
}

// sink is where a scrape's metrics go.
type sink chan<- prometheus.Metric

func (out sink) send(f *family, value float64, labels ...string) {
	for i, label := range labels {
		// The kernel takes any bytes in an interface name, Prometheus only UTF-8.
		labels[i] = strings.ToValidUTF8(label, "\uFFFD")
	}
	metric, err := prometheus.NewConstMetric(f.desc, f.valueType, value, labels...)
	if err != nil {
		metric = prometheus.NewInvalidMetric(f.desc, err)
	}
	out <- metric
}

func (out sink) sendBool(f *family, value bool, labels ...string) {
	if value {
		out.send(f, 1, labels...)
	} else {
		out.send(f, 0, labels...)
	}
}

// sendReasons sends a series for every known reason, so that the first
// occurrence is seen as an increase, and for those that only the source knows.
func (out sink) sendReasons(f *family, counts map[string]uint64) {
	for _, reason := range f.Reasons {
		out.send(f, float64(counts[reason.Name]), reason.Name)
	}
	for name, count := range counts {
		if !slices.ContainsFunc(f.Reasons, func(r reason) bool { return r.Name == name }) {
			out.send(f, float64(count), name)
		}
	}
}

func (out sink) sendFamilies(f *family, values PerFamily) {
	out.send(f, float64(values.IPv4), "ipv4")
	out.send(f, float64(values.IPv6), "ipv6")
}

func (out sink) packets(s *Snapshot) {
	for _, c := range s.Pairs {
		labels := c.labels()
		out.send(asymmetricPackets, float64(c.AsymmetricPackets), labels...)
		out.send(asymmetricFlows, float64(c.AsymmetricFlows), labels...)
		out.send(correctedPackets, float64(c.CorrectedPackets), labels...)
		out.send(correctedBytes, float64(c.CorrectedBytes), labels...)
		out.send(correctedFlows, float64(c.CorrectedFlows), labels...)
	}
	for _, u := range s.Uncorrected {
		out.send(uncorrectedPackets, float64(u.Packets), append(u.labels(), u.Reason)...)
	}
	for _, l := range s.Lost {
		out.send(lostPackets, float64(l.Packets), append(l.labels(), l.Reason)...)
	}
	out.originated(s.Originated)
	out.send(uncountedPackets, float64(s.Uncounted))
	out.sendReasons(unparsedPackets, s.Unparsed)
	out.sendReasons(ignoredPackets, s.Ignored)
}

// originated sends both outcomes of every pair, so that the first occurrence is seen as an increase.
func (out sink) originated(counters []Originated) {
	for _, o := range counters {
		for outcome, sent := range map[string]Sent{"moved": o.Moved, "routed": o.Routed} {
			out.send(originatedPackets, float64(sent.Packets), append(o.labels(), outcome)...)
			out.send(originatedFlows, float64(sent.Flows), append(o.labels(), outcome)...)
		}
		for _, reason := range originatedReasons {
			out.send(originatedRouted, float64(o.Reasons[reason.Name]), append(o.labels(), reason.Name)...)
		}
	}
}

func (out sink) flowTables(s *Snapshot) {
	for _, t := range s.Tables {
		out.send(flows, float64(t.Flows), t.Name)
		out.send(lastingFlows, float64(t.Lasting), t.Name)
		out.send(flowTableCapacity, float64(t.Capacity), t.Name)
		out.send(flowAdmissions, float64(t.Admissions), t.Name)
		out.send(flowReadmissions, float64(t.Readmissions), t.Name)
		out.send(flowInsertFailures, float64(t.InsertFailures), t.Name)
	}
	out.send(flowTableCapacity, float64(s.Outbound.Capacity), outbound)
	out.send(flowAdmissions, float64(s.Outbound.Admissions), outbound)
	for _, protocol := range protocols {
		out.send(flowMoves, float64(s.Moves[protocol]), protocol)
	}
	out.sendReasons(flowMovesRefused, s.MovesRefused)
	for _, way := range []string{"rule", "last-hop", "direct-return"} {
		out.send(waysLearnt, float64(s.WaysLearnt[way]), way)
	}
	out.sendFamilies(sourceRepairs, s.SourceRepairs)
}

func (out sink) interfaces(s *Snapshot) {
	for _, i := range s.Interfaces {
		out.sendBool(interfaceUp, i.Up, i.Name)
		for _, hook := range i.Hooks {
			out.sendBool(interfaceAttached, hook.Attached, i.Name, hook.Name, cmp.Or(hook.Mechanism, none))
		}
		if i.RPFilter != nil {
			out.send(rpFilter, float64(*i.RPFilter), i.Name)
		}
	}
	for key, reachable := range anyReachable(s.Gateways) {
		out.sendBool(gatewayReachable, reachable, key.Interface, addressFamily(key.Address), key.Address.String())
	}
	if s.RPFilterDrops != nil {
		out.send(rpFilterDrops, float64(*s.RPFilterDrops))
	}
}

func (out sink) host(s *Snapshot) {
	out.sendBool(fallbackActive, s.FallbackActive.IPv4, "ipv4")
	out.sendBool(fallbackActive, s.FallbackActive.IPv6, "ipv6")
	out.sendFamilies(fallbackDropped, s.FallbackDropped)
	for _, object := range []string{"route", "sysctl", "program", "neighbour"} {
		out.send(hostRepairs, float64(s.HostRepairs[object]), object)
	}
}

func (out sink) settings(s *Snapshot) {
	for _, name := range []string{ModeEnforce, ModeObserve} {
		out.sendBool(mode, s.Mode == name, name)
	}
	out.sendBool(reloadSuccessful, !s.ReloadFailed)
	if !s.ReloadSuccess.IsZero() {
		out.send(reloadSuccessTime, float64(s.ReloadSuccess.UnixMilli())/1000)
	}
	for _, feature := range s.Features {
		out.sendBool(kernelFeature, feature.Available, feature.Name)
	}
}

// anyReachable returns the gateways without their repetitions and zones: the
// interface has a label of its own. The value is Reachable.
func anyReachable(gateways []Gateway) map[Gateway]bool {
	reachable := make(map[Gateway]bool, len(gateways))
	for _, g := range gateways {
		key := Gateway{Interface: g.Interface, Address: g.Address.Unmap().WithZone("")}
		reachable[key] = reachable[key] || g.Reachable
	}
	return reachable
}

func addressFamily(address netip.Addr) string {
	if address.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

func (p *Pair) labels() []string {
	return []string{cmp.Or(p.From, none), p.To, p.Family, p.Protocol}
}
