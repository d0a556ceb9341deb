package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"replypath/loader"
	"replypath/metrics"
)

func TestSnapshot(t *testing.T) {
	loaded := time.Date(2026, time.March, 1, 12, 30, 0, 0, time.UTC)
	gateway := netip.MustParseAddr("10.4.0.1")
	got := snapshot(&loader.Counters{
		Pairs: []loader.PairCounters{{
			Pair:              loader.Pair{From: "eth0", To: "eth1", Family: "ipv4", Protocol: "tcp"},
			AsymmetricPackets: 1, AsymmetricFlows: 2, CorrectedPackets: 3, CorrectedBytes: 4, CorrectedFlows: 5,
		}},
		Uncorrected: []loader.UncorrectedCounter{{
			Pair: loader.Pair{From: "eth0", To: "eth1", Family: "ipv6", Protocol: "udp"}, Reason: "mtu", Packets: 6,
		}},
		Uncounted:     7,
		Unparsed:      map[string]uint64{"truncated": 8},
		Ignored:       map[string]uint64{"excluded": 9},
		Outbound:      loader.NoteCounters{Capacity: 21, Admissions: 22, Evictions: 23},
		Tables:        []loader.TableCounters{{Name: "established", Flows: 10, Capacity: 11, Admissions: 12, Readmissions: 7, InsertFailures: 13, Evictions: 14}},
		Moves:         map[string]uint64{"tcp": 14},
		MovesRefused:  map[string]uint64{"contested": 15},
		Interfaces:    []loader.InterfaceState{{Name: "eth1", Up: true, Hooks: []loader.Hook{{Name: "ingress", Mechanism: "tcx", Attached: true}}, RPFilter: new(2)}},
		Gateways:      []loader.GatewayState{{Interface: "eth1", Address: gateway, Reachable: true}},
		RPFilterDrops: new(uint64(16)),
		Repairs:       map[string]uint64{"route": 17, "sysctl": 18, "program": 19, "neighbour": 20},
		Mode:          "observe",
		ConfigError:   true,
		LoadedAt:      loaded,
		Features:      []loader.Feature{{Name: "tcx", Available: true, Effect: "no gap"}},
	})
	want := &metrics.Snapshot{
		Pairs: []metrics.PairCounters{{
			Pair:              metrics.Pair{From: "eth0", To: "eth1", Family: "ipv4", Protocol: "tcp"},
			AsymmetricPackets: 1, AsymmetricFlows: 2, CorrectedPackets: 3, CorrectedBytes: 4, CorrectedFlows: 5,
		}},
		Uncorrected: []metrics.Uncorrected{{
			Pair: metrics.Pair{From: "eth0", To: "eth1", Family: "ipv6", Protocol: "udp"}, Reason: "mtu", Packets: 6,
		}},
		Uncounted:     7,
		Unparsed:      map[string]uint64{"truncated": 8},
		Ignored:       map[string]uint64{"excluded": 9},
		Outbound:      metrics.Notes{Capacity: 21, Admissions: 22, Evictions: 23},
		Tables:        []metrics.Table{{Name: "established", Flows: 10, Capacity: 11, Admissions: 12, Readmissions: 7, InsertFailures: 13, Evictions: 14}},
		Moves:         map[string]uint64{"tcp": 14},
		MovesRefused:  map[string]uint64{"contested": 15},
		Interfaces:    []metrics.Interface{{Name: "eth1", Up: true, Hooks: []metrics.Hook{{Name: "ingress", Mechanism: "tcx", Attached: true}}, RPFilter: new(2)}},
		Gateways:      []metrics.Gateway{{Interface: "eth1", Address: gateway, Reachable: true}},
		RPFilterDrops: new(uint64(16)),
		HostRepairs:   metrics.HostRepairs{Route: 17, Sysctl: 18, Program: 19, Neighbour: 20},
		Mode:          "observe",
		ReloadFailed:  true,
		ReloadSuccess: loaded,
		Features:      []metrics.Feature{{Name: "tcx", Available: true}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
