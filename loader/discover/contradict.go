// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"replypath/loader/config"
)

// contradiction blames every entry that the interfaces which are there cannot follow.
func (r *Result) contradiction(cfg *config.Config, overruled overruledEntries) error {
	var errs []error
	for i := range cfg.Interfaces {
		entry := &cfg.Interfaces[i]
		errs = append(errs, overruled.glob(entry), r.noLastHop(entry))
	}
	return errors.Join(errs...)
}

// noLastHop blames an entry that asks for the last hop's MAC address of
// interfaces whose frames have none. A glob is blamed where all that it stands
// for at present are such: "*" may well match a tunnel beside the NICs.
func (r *Result) noLastHop(entry *config.Interface) error {
	of := func(i Interface) bool { return i.Settings.Name == entry.Name }
	first := slices.IndexFunc(r.Interfaces, of)
	withHeader := func(i Interface) bool { return of(i) && !i.asksForNoMAC() }
	if first < 0 || slices.ContainsFunc(r.Interfaces, withHeader) {
		return nil
	}
	return entry.Errorf("next_hop", "interface %s has no ethernet header, so it has no last hop with a mac address: leave next_hop out or set it to auto",
		r.Interfaces[first].Name)
}

// asksForNoMAC tells last-hop on a device without an Ethernet header.
func (i *Interface) asksForNoMAC() bool {
	return i.Named && i.MAC == nil && i.Settings.NextHop == config.NextHopLastHop
}

// withoutHeader warns of settings that mean nothing on a device whose frames
// begin with the IP header.
func (r *Result) withoutHeader() []string {
	var warnings []string
	for _, i := range r.Interfaces {
		if i.asksForNoMAC() {
			warnings = append(warnings, fmt.Sprintf(
				"interface %s has no ethernet header: next_hop last-hop is served as auto there", i.Name))
		}
	}
	return warnings
}

// overruledEntry is an entry that an interface matches and that says something
// else than the one that is in force on it, where no rule tells which of them was
// meant: they match by different names of it, or both are globs.
type overruledEntry struct {
	device         string
	inForce, entry *config.Interface
	key            string // in which they differ
}

type overruledEntries []overruledEntry

func (ds *devices) overruled(cfg *config.Config) overruledEntries {
	var overruled overruledEntries
	for _, d := range ds.list {
		inForce, unmanaged := ds.choose(d, cfg)
		if inForce == nil || unmanaged != "" {
			continue
		}
		for i := range cfg.Interfaces {
			entry := &cfg.Interfaces[i]
			if entry == inForce || !d.matches(entry.Name) || config.IsGlob(entry.Name) && !config.IsGlob(inForce.Name) {
				continue
			}
			if key := difference(cfg, inForce, entry); key != "" {
				overruled = append(overruled, overruledEntry{d.name(), inForce, entry, key})
			}
		}
	}
	return overruled
}

// difference returns the first key in which two entries do not have the same
// effect, "" for none.
func difference(cfg *config.Config, a, b *config.Interface) string {
	switch {
	case cmp.Or(a.Mode, cfg.Mode) != cmp.Or(b.Mode, cfg.Mode):
		return "mode"
	case a.NextHop != b.NextHop:
		return "next_hop"
	case cmp.Or(a.HostModel, cfg.HostModel) != cmp.Or(b.HostModel, cfg.HostModel):
		return "host_model"
	case !sameGateways(a, b):
		return "gateways"
	}
	return ""
}

// sameGateways: their order makes no difference.
func sameGateways(a, b *config.Interface) bool {
	return len(a.Gateways) == len(b.Gateways) &&
		!slices.ContainsFunc(a.Gateways, func(g netip.Addr) bool { return !slices.Contains(b.Gateways, g) })
}

func (es overruledEntries) warnings() []string {
	var warnings []string
	for _, e := range es {
		until := ""
		if config.IsGlob(e.inForce.Name) {
			until = ", but the next start or reload is refused"
		}
		warnings = append(warnings, fmt.Sprintf("interface %s has another %s by its entry %q than by %q: the former is in force%s",
			e.device, e.key, e.inForce.Name, e.entry.Name, until))
	}
	return warnings
}

// glob blames a glob for the first interface on which another one is in force: which of the two
// holds would hang on their order. nil where there is none.
func (es overruledEntries) glob(entry *config.Interface) error {
	i := slices.IndexFunc(es, func(e overruledEntry) bool { return e.entry == entry && config.IsGlob(e.inForce.Name) })
	if i < 0 {
		return nil
	}
	e := es[i]
	return entry.Errorf(e.key, "%q contradicts %s, as both match interface %s: set the same %s in both, or give %[3]s an entry of its own",
		entry.Name, e.inForce.Place(), e.device, e.key)
}
