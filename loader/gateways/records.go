// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"fmt"
	"net/netip"
	"slices"

	"replypath/loader/identity"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
)

// records are what is written down of gateways, for a later process and for the status.
type records struct {
	*Host
	gateways map[gatewayKey]*gateway
}

// recall makes the gateways known that an earlier process held or bridged: they may have left the
// routes since, and are let go then. Until they are seen in a route they are nobody's next hop.
func (j *records) recall() {
	for i := range j.Journal.Gateways {
		r := &j.Journal.Gateways[i]
		address, err := netip.ParseAddr(r.Address)
		key := gatewayKey{r.Interface, address}
		if !r.Held && !r.Bridged || r.Gone || err != nil || j.gateways[key] != nil {
			continue
		}
		seen := nexthop.Gateway{Interface: r.Interface, Address: address}
		g := &gateway{Gateway: seen, id: r.ID}
		g.recall(r)
		j.gateways[key] = g
	}
}

// write keeps what a later process, and the status, want to know.
func (j *records) write() {
	for i := range j.Journal.Gateways {
		r := &j.Journal.Gateways[i]
		address, err := netip.ParseAddr(r.Address)
		g := j.gateways[gatewayKey{r.Interface, address}]
		r.Gone = err != nil || g == nil
		r.Held, r.Bridged = !r.Gone && g.isHeld(), !r.Gone && g.isBridged()
		if !r.Gone {
			r.MAC = g.last.String()
			r.Default = r.Default || g.Main && (g.Reach4.Everything || g.Reach6.Everything)
		}
		if s := j.Interface(r.Interface); s.isServed() && !r.Gone {
			r.Name = s.Name
		}
	}
}

// identify returns the record of a gateway, whose id it may have had before.
func (j *records) identify(key gatewayKey) (*pins.GatewayRecord, error) {
	address, records := key.address.String(), &j.Journal.Gateways
	for i, r := range *records {
		if r.Interface == key.device && r.Address == address {
			return &(*records)[i], nil
		}
	}
	id, _ := identity.NextID(records, j.Datapath().Gateways.MaxEntries(), func(r pins.GatewayRecord) (uint16, bool) { return r.ID, r.Gone })
	if id == 0 {
		return nil, fmt.Errorf("gateway %s: %d gateways are known already, which is as many as can be", address, len(*records))
	}
	*records = append(*records, pins.GatewayRecord{
		ID: id, Interface: key.device, Name: j.NameOf(key.device), Address: address, MAC: j.macBefore(key),
	})
	return &(*records)[len(*records)-1], nil
}

// macBefore is the MAC that a gateway had last on an interface of the same name that has gone: one
// that was deleted and made anew has another index. It is "" where nobody knows one.
func (j *records) macBefore(key gatewayKey) string {
	for _, r := range slices.Backward(j.Journal.Gateways) {
		isIt := r.Address == key.address.String() && r.Name == j.NameOf(key.device)
		if isIt && r.MAC != "" && !j.Interface(r.Interface).isServed() {
			return r.MAC
		}
	}
	return ""
}
