// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"slices"

	"github.com/vishvananda/netlink"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
)

// Scan looks at the network namespace of nl. What changes while it looks is
// seen by the next scan: an interface that goes away meanwhile is no error. The routes are those of the calling
// thread's namespace, which has to be the same.
func Scan(nl *netlink.Handle, cfg *config.Config) (Result, error) {
	routes := NewRoutes()
	if err := dump.ReadRoutes(routes); err != nil {
		return Result{}, err
	}
	return ScanServed(nl, cfg, nil, routes)
}

// ScanServed is Scan by routes that have been read, for a host on which some interfaces, by index, are served
// already. Such an interface stays managed without an address: network managers
// take the last one away for a moment when they configure it anew.
func ScanServed(nl *netlink.Handle, cfg *config.Config, served func(index int) bool, routes *Routes) (Result, error) {
	n := network{served: served, routed: routes.routed.List(), defaults: routes.defaults.List()}
	var err error
	if n.links, err = dump.Links(nl); err != nil {
		return Result{}, err
	}
	if n.addresses, err = dump.Addresses(nl); err != nil {
		return Result{}, err
	}
	return n.evaluate(cfg), nil
}

func (n *network) evaluate(cfg *config.Config) Result {
	devices := newDevices(n.links, n.addresses)
	r := Result{defaults: n.defaults, left: make(map[int]Unmanaged), Bystanders: newBystanders(cfg)}
	for _, d := range devices.list {
		d.served = n.served != nil && n.served(d.link.Attrs().Index)
		settings, reason := devices.choose(d, cfg)
		if reason != "" {
			r.Bystanders.leave(d)
			left := Unmanaged{d.name(), reason}
			r.Unmanaged, r.left[d.link.Attrs().Index] = append(r.Unmanaged, left), left
			continue
		}
		r.Bystanders.chosen[d.link.Attrs().Index] = true
		r.Interfaces = append(r.Interfaces, d.managed(settings, cfg))
	}
	r.OnLink = n.onLink(r.Interfaces)
	r.Own = n.ownAddresses(devices)
	r.OwnPrefixes = n.ownPrefixes(devices)
	r.Missing = devices.missing(cfg)
	overruled := devices.overruled(cfg)
	r.Warnings = slices.Concat(devices.unmatched(cfg), overruled.warnings(), r.withoutHeader(), n.strayGateways(&r))
	r.Contradiction = r.contradiction(cfg, overruled)
	return r
}
