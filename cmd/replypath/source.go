package main

import (
	"replypath/loader"
	"replypath/metrics"
)

// attached is a loader that the metrics are read from.
type attached struct{ *loader.Loader }

// Source implements datapath.
func (a attached) Source() metrics.Source { return a }

// Snapshot implements metrics.Source.
func (a attached) Snapshot() (*metrics.Snapshot, error) {
	counters, err := a.Counters()
	if err != nil {
		return nil, err
	}
	return snapshot(counters), nil
}

// snapshot puts the loader's figures into the words of the metrics.
func snapshot(c *loader.Counters) *metrics.Snapshot {
	return &metrics.Snapshot{
		Pairs:         convert(c.Pairs, pairCounters),
		Uncorrected:   convert(c.Uncorrected, uncorrected),
		Uncounted:     c.Uncounted,
		Unparsed:      c.Unparsed,
		Ignored:       c.Ignored,
		Tables:        convert(c.Tables, table),
		Outbound:      metrics.Notes(c.Outbound),
		Moves:         c.Moves,
		MovesRefused:  c.MovesRefused,
		Interfaces:    convert(c.Interfaces, managedInterface),
		Gateways:      convert(c.Gateways, func(g loader.GatewayState) metrics.Gateway { return metrics.Gateway(g) }),
		RPFilterDrops: c.RPFilterDrops,
		SourceRepairs: metrics.PerFamily{IPv4: c.SourceRepairs4, IPv6: c.SourceRepairs6},
		HostRepairs:   hostRepairs(c.Repairs),

		FallbackActive:  metrics.Families{IPv4: c.FallbackActive4, IPv6: c.FallbackActive6},
		FallbackDropped: metrics.PerFamily{IPv4: c.FallbackDropped4, IPv6: c.FallbackDropped6},

		Mode:          c.Mode,
		ReloadFailed:  c.ConfigError,
		ReloadSuccess: c.LoadedAt,
		Features:      convert(c.Features, feature),
	}
}

func convert[From, To any](list []From, one func(From) To) []To {
	converted := make([]To, len(list))
	for i, item := range list {
		converted[i] = one(item)
	}
	return converted
}

func pairCounters(p loader.PairCounters) metrics.PairCounters {
	return metrics.PairCounters{
		Pair:              metrics.Pair(p.Pair),
		AsymmetricPackets: p.AsymmetricPackets,
		AsymmetricFlows:   p.AsymmetricFlows,
		CorrectedPackets:  p.CorrectedPackets,
		CorrectedBytes:    p.CorrectedBytes,
		CorrectedFlows:    p.CorrectedFlows,
	}
}

func uncorrected(u loader.UncorrectedCounter) metrics.Uncorrected {
	return metrics.Uncorrected{Pair: metrics.Pair(u.Pair), Reason: u.Reason, Packets: u.Packets}
}

func table(t loader.TableCounters) metrics.Table {
	return metrics.Table{
		Name:           t.Name,
		Flows:          t.Flows,
		Capacity:       t.Capacity,
		Admissions:     t.Admissions,
		Readmissions:   t.Readmissions,
		InsertFailures: t.InsertFailures,
		Evictions:      t.Evictions,
	}
}

func managedInterface(i loader.InterfaceState) metrics.Interface {
	return metrics.Interface{
		Name:     i.Name,
		Up:       i.Up,
		Hooks:    convert(i.Hooks, func(h loader.Hook) metrics.Hook { return metrics.Hook(h) }),
		RPFilter: i.RPFilter,
	}
}

func hostRepairs(repairs map[string]uint64) metrics.HostRepairs {
	return metrics.HostRepairs{
		Route:     repairs["route"],
		Sysctl:    repairs["sysctl"],
		Program:   repairs["program"],
		Neighbour: repairs["neighbour"],
	}
}

func feature(f loader.Feature) metrics.Feature {
	return metrics.Feature{Name: f.Name, Available: f.Available}
}
