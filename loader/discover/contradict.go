package discover

import (
	"errors"
	"fmt"
	"slices"

	"replypath/loader/config"
)

// contradiction blames every entry that asks for the last hop's MAC address of
// interfaces whose frames have none. A glob is blamed where all that it stands
// for at present are such: "*" may well match a tunnel beside the NICs.
func (r *Result) contradiction(cfg *config.Config) error {
	var errs []error
	for i := range cfg.Interfaces {
		entry := &cfg.Interfaces[i]
		of := func(i Interface) bool { return i.Settings.Name == entry.Name }
		first := slices.IndexFunc(r.Interfaces, of)
		withHeader := func(i Interface) bool { return of(i) && !i.asksForNoMAC() }
		if first < 0 || slices.ContainsFunc(r.Interfaces, withHeader) {
			continue
		}
		errs = append(errs, entry.Errorf("next_hop", "interface %s has no ethernet header, and thus no last hop with a mac address: leave next_hop out or set it to auto",
			r.Interfaces[first].Name))
	}
	return errors.Join(errs...)
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

// overruled warns of entries that an interface matches and that say something
// else than the one that is in force on it, where no rule tells which of them was
// meant: they match by different names of it.
func (ds *devices) overruled(cfg *config.Config) []string {
	var warnings []string
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
			if key := cfg.Difference(inForce, entry); key != "" {
				warnings = append(warnings, fmt.Sprintf("interface %s has another %s by its entry %q than by %q: the former is in force",
					d.name(), key, inForce.Name, entry.Name))
			}
		}
	}
	return warnings
}
