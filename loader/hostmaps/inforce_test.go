// SPDX-License-Identifier: Apache-2.0

package hostmaps

import (
	"errors"
	"maps"
	"net/netip"
	"testing"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/test/await"
)

// desired is all that the maps are told of a host.
type desired struct {
	own    map[[16]byte]uint32
	served []netip.Prefix // that the configuration names
	onLink map[bpf.DatapathPrefixKey]uint32
	config *config.Config
	repair bpf.DatapathSourceRepair
	ways   Ways
}

var (
	ownKey    = netip.MustParseAddr("192.0.2.1").As16()
	onLinkKey = datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_ON_LINK, 7, netip.MustParsePrefix("192.0.2.0/24"))
	routeKey  = datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_ROUTED, 7, netip.MustParsePrefix("0.0.0.0/0"))
	sourceKey = datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_SOURCE, 0, netip.MustParsePrefix("192.0.2.1/32"))
	macKey    = aMACKey(bpf.DatapathPrefixKindPREFIX_GATEWAY, 2, 0)
)

func aMACKey(kind bpf.DatapathPrefixKind, first, second byte) bpf.DatapathPrefixKey {
	return datapath.MACKey(kind, 7, []byte{first, second, 0, 0, 0, 0}, 4)
}

func aHost() *desired {
	return &desired{
		own:    map[[16]byte]uint32{ownKey: uint32(bpf.DatapathOwnFlagsOWN_ADDRESS)},
		onLink: map[bpf.DatapathPrefixKey]uint32{onLinkKey: uint32(bpf.DatapathOnLinkFlagsON_LINK)},
		config: config.Default(),
		ways: Ways{
			Interfaces: map[uint32]bpf.DatapathInterface{7: {Ifindex: 7, Id: 1, FirstGateway4: 1}},
			Gateways:   map[uint32]bpf.DatapathGateway{1: {Ifindex: 7, Usable: 1}, 2: {Ifindex: 7, Usable: 1}},
			MACs:       map[bpf.DatapathPrefixKey]uint32{macKey: 1},
			Routes:     map[bpf.DatapathPrefixKey]uint32{routeKey: 1, sourceKey: 1},
		},
	}
}

// hostBed is the maps of a host, empty at first.
type hostBed struct {
	*testing.T
	kernel bpf.Maps
	maps   *Maps
}

func newHostBed(t *testing.T) *hostBed {
	t.Helper()
	b := &hostBed{T: t}
	spec, err := bpf.LoadDatapath()
	b.must(err)
	b.must(spec.LoadAndAssign(&b.kernel, nil))
	t.Cleanup(func() { b.kernel.Close() })
	b.read()
	return b
}

func (b *hostBed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// read is what a new process begins with.
func (b *hostBed) read() {
	b.Helper()
	var err error
	b.maps, err = Read(&b.kernel)
	b.must(err)
}

// write has the maps say what is desired, in the order of a reconciliation.
func (b *hostBed) write(d *desired) {
	b.Helper()
	w := d.ways
	w.Interfaces = maps.Clone(w.Interfaces)
	b.must(errors.Join(b.maps.OnLink.Sync(d.onLink), b.maps.Own.Sync(d.own), b.writeServed(d), b.writeSettings(d), b.maps.WriteWays(&w)))
}

func (b *hostBed) writeServed(d *desired) error {
	return b.maps.WriteServed(ServedAddresses(new(discover.Result), nil, d.served))
}

func (b *hostBed) writeSettings(d *desired) error {
	return b.maps.WriteSettings(d.config, d.repair, func(put func() error) error { return put() })
}

func (b *hostBed) settings() bpf.DatapathSettings {
	b.Helper()
	settings, err := b.maps.readSettings()
	b.must(err)
	return settings
}

// TestDecisionsBecomeVoid: `ways` rises with whatever the programs decide by for what the host originates, and when it
// goes again; and the generation with what decides whether a request starts a flow, as marks last for a minute or two.
// What the programs look at with each packet makes neither void.
func TestDecisionsBecomeVoid(t *testing.T) {
	const neither, decisions, refusals, both = 0, 1, 2, 3
	served := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}
	for _, test := range []struct {
		name   string
		void   int
		change func(d *desired)
	}{
		{"own address", both, func(d *desired) { d.own[[16]byte{}] = 1 }},
		{"own address of another interface", both, func(d *desired) { d.own[ownKey] |= 2 << bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT }},
		{"network that no interface has", both, func(d *desired) { d.served = served }},
		{"no own address", decisions, func(d *desired) { clear(d.own) }},
		{"network on the link", decisions, func(d *desired) { d.onLink[bpf.DatapathPrefixKey{Ifindex: 7}] = 1 }},
		{"network by a route", decisions, func(d *desired) { d.onLink[onLinkKey] |= uint32(bpf.DatapathOnLinkFlagsON_LINK_ROUTED) }},
		{"no network on the link", decisions, func(d *desired) { clear(d.onLink) }},
		{"route", decisions, func(d *desired) {
			d.ways.Routes[datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_ROUTED, 7, netip.MustParsePrefix("::/0"))] = 2
		}},
		{"route by another gateway", decisions, func(d *desired) { d.ways.Routes[routeKey] = 2 }},
		{"no route", decisions, func(d *desired) { delete(d.ways.Routes, routeKey) }},
		{"another gateway of an own address", decisions, func(d *desired) { d.ways.Routes[sourceKey] = 2 }},
		{"no gateway of an own address", decisions, func(d *desired) { delete(d.ways.Routes, sourceKey) }},
		{"interface", decisions, func(d *desired) { d.ways.Interfaces[8] = bpf.DatapathInterface{Ifindex: 8, Id: 2} }},
		{"first gateway", decisions, func(d *desired) { d.ways.Interfaces[7] = bpf.DatapathInterface{Ifindex: 7, Id: 1, FirstGateway4: 2} }},
		{"interface's index is another's", decisions, func(d *desired) { d.ways.Interfaces[7] = bpf.DatapathInterface{Ifindex: 7, Id: 2, FirstGateway4: 1} }},
		{"no interface", decisions, func(d *desired) { clear(d.ways.Interfaces) }},
		{"an interface forwards nothing", refusals, func(d *desired) {
			d.ways.Interfaces[7] = bpf.DatapathInterface{Ifindex: 7, Id: 1, FirstGateway4: 1, Takes: uint8(bpf.DatapathTakesTAKES_ALL4)}
		}},
		{"an interface that forwards nothing", refusals, func(d *desired) {
			d.ways.Interfaces[8] = bpf.DatapathInterface{Ifindex: 8, Id: 2, Takes: uint8(bpf.DatapathTakesTAKES_ALL6)}
		}},
		{"exclusion", both, func(d *desired) { d.config.Exclude = []config.Exclusion{{Protocol: 17}} }},
		{"protocols", decisions, func(d *desired) { d.config.Protocols = d.config.Protocols[1:] }},
		{"scope", both, func(d *desired) { d.config.Scope = config.ScopeAll }},
		{"loopback", refusals, func(d *desired) { d.config.LoopbackAddresses = config.LoopbackSymmetric }},
		{"gateway cannot be used", neither, func(d *desired) { d.ways.Gateways[1] = bpf.DatapathGateway{Ifindex: 7} }},
		{"gateway has another MAC", neither, func(d *desired) {
			d.ways.Gateways[1] = bpf.DatapathGateway{Ifindex: 7, Usable: 1, Mac: [6]uint8{2, 1}}
			d.ways.MACs = map[bpf.DatapathPrefixKey]uint32{aMACKey(bpf.DatapathPrefixKindPREFIX_GATEWAY, 2, 1): 1}
		}},
		{"gateway is gone that nothing names", neither, func(d *desired) { delete(d.ways.Gateways, 2) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newHostBed(t)
			b.write(aHost())
			other := aHost()
			test.change(other)
			for n, d := range []*desired{other, aHost(), other} {
				before := b.settings()
				b.write(d)
				after := b.settings()
				if test.void&decisions != 0 && (before.RoutingGeneration == 0 || after.RoutingGeneration <= before.RoutingGeneration) {
					t.Errorf("decisions: from %d to %d", before.RoutingGeneration, after.RoutingGeneration)
				}
				if n == 0 && test.void&refusals != 0 && after.Generation <= before.Generation {
					t.Errorf("refusals: from %d to %d", before.Generation, after.Generation)
				}
				if test.void == neither && after != before {
					t.Errorf("from %+v to %+v", before, after)
				}
				b.write(d)
				await.Same(t, "settings where nothing has changed", after, b.settings())
			}
		})
	}
}

// TestNamedNetworkIsWatched: conversations with what the configuration newly names may be under way. Those with what a rule
// newly translates are not.
func TestNamedNetworkIsWatched(t *testing.T) {
	b := newHostBed(t)
	b.write(aHost())
	network := []netip.Prefix{netip.MustParsePrefix("2001:db8:9::/64")}
	for _, test := range []struct {
		what                   string
		translated, configured []netip.Prefix
		want                   bool
	}{
		{"translated", network, nil, false}, {"named as well", network, network, false}, {"gone", nil, nil, false},
		{"named", nil, network, true}, {"named still", nil, network, false},
	} {
		b.must(b.maps.WriteServed(ServedAddresses(new(discover.Result), test.translated, test.configured)))
		watched := false
		b.must(b.maps.WriteSettings(aHost().config, aHost().repair, func(put func() error) error { watched = true; return put() }))
		await.Same(t, test.what+": watched", test.want, watched)
	}
}

// TestDecisionsOfAnEarlierProcess: it may have ended between a change and the settings.
func TestDecisionsOfAnEarlierProcess(t *testing.T) {
	b := newHostBed(t)
	b.write(aHost())
	before := b.settings().RoutingGeneration
	b.read()
	b.write(aHost())
	if after := b.settings().RoutingGeneration; after <= before {
		t.Errorf("from %d to %d", before, after)
	}
}

// TestEntriesOfOthers: a new process takes no entry away that others write to the same map.
func TestEntriesOfOthers(t *testing.T) {
	b, held := newHostBed(t), aMACKey(bpf.DatapathPrefixKindPREFIX_HELD, 2, 0)
	b.must(b.kernel.Prefixes.Put(held, uint32(1)))
	b.write(aHost())
	b.read()
	b.must(errors.Join(b.maps.OnLink.Sync(nil), b.maps.WriteServed(nil)))
	b.must(b.kernel.Prefixes.Lookup(routeKey, new(uint32)))
	b.must(errors.Join(b.maps.OnLink.Sync(aHost().onLink), b.maps.WriteWays(&Ways{Interfaces: map[uint32]bpf.DatapathInterface{}})))
	b.must(errors.Join(b.kernel.Prefixes.Lookup(held, new(uint32)), b.kernel.Prefixes.Lookup(onLinkKey, new(uint32))))
}

// TestPlaceOfAnother: an interface that takes another's place is written in three steps, so that no program takes half an
// entry for it; what changes of one is written at once.
func TestPlaceOfAnother(t *testing.T) {
	b := newHostBed(t)
	b.write(aHost())
	const place = 7
	for _, test := range []struct {
		what   string
		entry  bpf.DatapathInterface
		writes int
	}{
		{"same", bpf.DatapathInterface{Ifindex: place, Id: 1, Mtu: 1400}, 1},
		{"index was given again", bpf.DatapathInterface{Ifindex: place, Id: 2, Mtu: 1400}, 3},
		{"low bits are the same", bpf.DatapathInterface{Ifindex: place + bpf.InterfacePlaces, Id: 2, Mtu: 1400}, 3},
	} {
		d, before := aHost(), b.maps.Interfaces.writes
		d.ways.Interfaces[place] = test.entry
		b.write(d)
		await.Same(t, test.what+": writes", test.writes, b.maps.Interfaces.writes-before)
		var got bpf.DatapathInterface
		b.must(b.kernel.Interfaces.Lookup(uint32(place), &got))
		await.Same(t, test.what, test.entry, got)
	}
}

// TestDecisionsPutBack: with the maps of before, the decisions of meanwhile are void, and those of before stay so.
func TestDecisionsPutBack(t *testing.T) {
	b := newHostBed(t)
	b.write(aHost())
	restore, err := b.maps.Backup()
	b.must(err)
	d := aHost()
	d.own[ownKey] |= 2 << bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT
	d.config.Exclude = []config.Exclusion{{Protocol: 17}}
	b.write(d)
	meanwhile := b.settings().RoutingGeneration
	b.must(restore())
	if after := b.settings().RoutingGeneration; after <= meanwhile {
		t.Errorf("from %d to %d", meanwhile, after)
	}
}

// TestSettingsOutdateDecisions: what settings say is in force as soon as they are written, whatever else is to be
// written.
func TestSettingsOutdateDecisions(t *testing.T) {
	for name, change := range map[string]func(d *desired){
		"exclusion":   func(d *desired) { d.config.Exclude = []config.Exclusion{{Protocol: 17}} },
		"protocols":   func(d *desired) { d.config.Protocols = d.config.Protocols[1:] },
		"own address": func(d *desired) { d.own[ownKey] |= 2 << bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT },
	} {
		t.Run(name, func(t *testing.T) {
			b := newHostBed(t)
			b.write(aHost())
			before := b.settings().RoutingGeneration
			d := aHost()
			change(d)
			b.must(errors.Join(b.maps.Own.Sync(d.own), b.writeSettings(d)))
			if after := b.settings().RoutingGeneration; after <= before {
				t.Errorf("from %d to %d", before, after)
			}
			before = b.settings().RoutingGeneration
			b.must(b.writeSettings(d))
			await.Same(t, "generation where nothing has changed", before, b.settings().RoutingGeneration)
		})
	}
}
