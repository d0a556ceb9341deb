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

// ScanServed is Scan by routes that have been read, for a host on which some interfaces are managed
// already; served has them by index. Such an interface stays managed without an address: network managers
// take the last one away for a moment when they configure it anew.
func ScanServed(nl *netlink.Handle, cfg *config.Config, served func(index int) *Interface, routes *Routes) (Result, error) {
	n := network{served: served, routed: routes.routed.List(), leadOut: routes.leadOut}
	var err error
	if n.links, err = dump.Links(nl); err != nil {
		return Result{}, err
	}
	if n.addresses, err = dump.Addresses(nl); err != nil {
		return Result{}, err
	}
	return n.evaluate(cfg), nil
}

// nameless says what an unmanaged device is by which requests may come all the same, empty for others.
func (ds *devices) nameless(d *device) string {
	switch {
	case d.isTunnel():
		return "a tunnel without a global address"
	case ds.hasLoneGuest(d):
		return "a bridge to a container or virtual machine, for which this host forwards"
	}
	return ""
}

func (n *network) evaluate(cfg *config.Config) Result {
	devices := newDevices(n.links, n.addresses)
	r := Result{Bystanders: make(Bystanders)}
	for _, d := range devices.list {
		if n.served != nil {
			d.before = n.served(d.link.Attrs().Index)
		}
		d.leads = n.leadOut != nil && n.leadOut(d.link.Attrs().Index)
		settings, reason := devices.choose(d, cfg)
		if reason == "" {
			i := devices.managed(d, settings, cfg)
			if vrf := devices.byIndex[i.VRF]; vrf != nil {
				if vrf, is := vrf.link.(*netlink.Vrf); is {
					i.Table = int(vrf.Table)
				}
			}
			r.Interfaces = append(r.Interfaces, i)
			continue
		}
		if isOfGuest(d.link.Type()) {
			r.Bystanders[d.link.Attrs().Index] = true
		}
		r.Unmanaged = append(r.Unmanaged, Unmanaged{Name: d.name(), Reason: reason})
		if what := devices.nameless(d); what != "" && devices.unfit(d) == "" && d.ignored(cfg.IgnoreInterfaces) == "" {
			r.Nameless = append(r.Nameless, Unmanaged{Name: d.name(), Reason: what})
		}
		if reason := devices.unseen(d); reason != "" {
			if d.leads && d.link.Type() != "vrf" { // from there replies leave by a port of it
				r.Uncaught = append(r.Uncaught, Unmanaged{Name: d.name(), Reason: reason})
			}
			continue
		}
		r.Headerless = r.Headerless || d.hasNoHeader()
		if d.leads {
			caught := d.describe()
			caught.Catches = true
			r.Caught = append(r.Caught, caught)
		}
	}
	if len(r.Interfaces) == 0 { // there is nothing that a reply could be moved to
		r.Caught = nil
	}
	r.OnLink = n.onLink(r.Interfaces)
	r.Own = n.ownAddresses(devices)
	r.OwnPrefixes = n.ownPrefixes(devices)
	r.Missing = devices.missing(cfg)
	r.Warnings = slices.Concat(devices.unmatched(cfg, r.Unmanaged), r.withoutHeader(), n.strayGateways(&r))
	return r
}
