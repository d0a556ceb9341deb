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
var protocols = []string{"tcp", "udp", "icmp", "icmpv6", "sctp", otherProtocol}

const otherProtocol = "other"

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
	out.findings(findingsOf(c.source))
}

// findings sends how many there are of each check and severity.
func (out sink) findings(found []Finding) {
	counts := make(map[Finding]int)
	for _, f := range found {
		counts[Finding{Check: f.Check, Severity: f.Severity}]++
	}
	for f, count := range counts {
		out.send(findings, float64(count), f.Check, f.Severity)
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

// sendProtocols sends a series for every protocol that has a label value.
func (out sink) sendProtocols(f *family, counts map[string]uint64) {
	sums := make(map[string]uint64, len(protocols))
	for name, count := range counts {
		sums[boundedProtocol(name)] += count
	}
	for _, name := range protocols {
		out.send(f, float64(sums[name]), name)
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
	for pair, count := range addPairs(s.Pairs) {
		labels := pair.labels()
		out.send(asymmetricPackets, float64(count.AsymmetricPackets), labels...)
		out.send(asymmetricFlows, float64(count.AsymmetricFlows), labels...)
		out.send(correctedPackets, float64(count.CorrectedPackets), labels...)
		out.send(correctedBytes, float64(count.CorrectedBytes), labels...)
		out.send(correctedFlows, float64(count.CorrectedFlows), labels...)
	}
	for key, packets := range addUncorrected(s.Uncorrected) {
		out.send(uncorrectedPackets, float64(packets), append(key.Pair.labels(), key.Reason)...)
	}
	for key, packets := range addUncorrected(s.Lost) {
		out.send(lostPackets, float64(packets), append(key.Pair.labels(), key.Reason)...)
	}
	out.originated(s.Originated)
	out.send(uncountedPackets, float64(s.Uncounted))
	out.sendReasons(unparsedPackets, s.Unparsed)
	out.sendReasons(ignoredPackets, s.Ignored)
}

// originated sends both outcomes of every pair, so that the first occurrence is seen as an increase.
func (out sink) originated(counters []Originated) {
	for pair, outcomes := range addOriginated(counters) {
		for _, outcome := range []string{outcomeMoved, outcomeRouted} {
			labels := append(pair.labels(), outcome)
			out.send(originatedPackets, float64(outcomes[outcome].Packets), labels...)
			out.send(originatedFlows, float64(outcomes[outcome].Flows), labels...)
		}
		for _, reason := range originatedReasons {
			out.send(originatedRouted, float64(outcomes[reason.Name].Packets), append(pair.labels(), reason.Name)...)
		}
	}
}

func (out sink) flowTables(s *Snapshot) {
	for _, t := range s.Tables {
		out.send(flows, float64(t.Flows), t.Name)
		out.send(flowTableCapacity, float64(t.Capacity), t.Name)
		out.send(flowAdmissions, float64(t.Admissions), t.Name)
		out.send(flowReadmissions, float64(t.Readmissions), t.Name)
		out.send(flowInsertFailures, float64(t.InsertFailures), t.Name)
		out.send(flowEvictions, float64(t.Evictions), t.Name)
	}
	out.send(flowTableCapacity, float64(s.Outbound.Capacity), outbound)
	out.send(flowAdmissions, float64(s.Outbound.Admissions), outbound)
	out.sendProtocols(flowMoves, s.Moves)
	out.sendReasons(flowMovesRefused, s.MovesRefused)
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
	out.send(hostRepairs, float64(s.HostRepairs.Route), "route")
	out.send(hostRepairs, float64(s.HostRepairs.Sysctl), "sysctl")
	out.send(hostRepairs, float64(s.HostRepairs.Program), "program")
	out.send(hostRepairs, float64(s.HostRepairs.Neighbour), "neighbour")
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

func (p Pair) labels() []string {
	return []string{p.From, p.To, p.Family, p.Protocol}
}

// bounded returns the pair with the label values that are shown.
func (p Pair) bounded() Pair {
	p.From = cmp.Or(p.From, none)
	p.Protocol = boundedProtocol(p.Protocol)
	return p
}

func boundedProtocol(name string) string {
	if slices.Contains(protocols, name) {
		return name
	}
	return otherProtocol
}

func addPairs(counters []PairCounters) map[Pair]PairCounters {
	sums := make(map[Pair]PairCounters, len(counters))
	for _, c := range counters {
		key := c.Pair.bounded()
		sum := sums[key]
		sum.AsymmetricPackets += c.AsymmetricPackets
		sum.AsymmetricFlows += c.AsymmetricFlows
		sum.CorrectedPackets += c.CorrectedPackets
		sum.CorrectedBytes += c.CorrectedBytes
		sum.CorrectedFlows += c.CorrectedFlows
		sums[key] = sum
	}
	return sums
}

type pairReason struct {
	Pair
	Reason string
}

func addUncorrected(counters []Uncorrected) map[pairReason]uint64 {
	sums := make(map[pairReason]uint64, len(counters))
	for _, c := range counters {
		sums[pairReason{c.Pair.bounded(), c.Reason}] += c.Packets
	}
	return sums
}

// Values of the label outcome.
const (
	outcomeMoved  = "moved"
	outcomeRouted = "routed"
)

// addOriginated adds up what was counted for each pair, by outcome, and what went as routed by reason as well.
func addOriginated(counters []Originated) map[Pair]map[string]Originated {
	sums := make(map[Pair]map[string]Originated)
	for _, c := range counters {
		pair := c.Pair.bounded()
		if sums[pair] == nil {
			sums[pair] = make(map[string]Originated)
		}
		names := []string{outcomeMoved}
		if c.Reason != "" {
			names = []string{outcomeRouted, c.Reason}
		}
		for _, name := range names {
			sum := sums[pair][name]
			sum.Packets += c.Packets
			sum.Flows += c.Flows
			sums[pair][name] = sum
		}
	}
	return sums
}
