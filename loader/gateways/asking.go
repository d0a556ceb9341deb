// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"errors"
	"net/netip"
	"slices"

	"replypath/loader/hostsettings"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/undo"
)

// asking are the settings that have the kernel ask everybody for a neighbour whose MAC it
// checks, and not only the MAC: who replaces a gateway has another. It does so as often, and
// at the same times, as if it knew no MAC (neigh_max_probes() in net/core/neighbour.c, and
// arp_solicit()). They are changed in this order and put back in the reverse one, as an entry
// of which nobody may be asked fails.
var asking = []askingSetting{
	{everybodyAgain, "3", ""},
	{knownFirst, "0", ""},
	// For so long after an entry was told a MAC, no other is heeded (arp_process()).
	{"locktime", "0", "ipv4"},
}

const (
	// everybodyAgain is how often everybody is asked for a neighbour that was known.
	everybodyAgain = "mcast_resolicit"
	// knownFirst is how often the known MAC is asked before. The kernel counts the questions for
	// a neighbour that it has no MAC of from that number on (__neigh_event_send()): with less, it
	// gives up one that it is asking for too soon, with more, it asks nobody at first
	// (arp_solicit()). So it is changed and put back while it asks for none; everybodyAgain alone
	// has a replacement found too, three questions later.
	knownFirst = "ucast_solicit"
)

type askingSetting struct{ leaf, value, family string }

// isOf tells whether there is such a setting of a family.
func (s *askingSetting) isOf(family string) bool { return s.family == "" || s.family == family }

func isAsking(r pins.SysctlRecord) bool {
	return slices.ContainsFunc(asking, func(s askingSetting) bool { return s.leaf == undo.SettingOf(r).Leaf })
}

// askedSettings are these settings of the host.
type askedSettings struct {
	*Host
	gateways map[gatewayKey]*gateway
}

// haveEverybodyAsked changes the settings for that of a gateway's interface.
func (a *askedSettings) haveEverybodyAsked(g *gateway) error {
	for _, setting := range asking {
		if !setting.isOf(addressFamily(g)) {
			continue
		}
		key := hostsettings.NeighbourKey(addressFamily(g), a.NameOf(g.Interface), setting.leaf)
		change, err := hostsettings.Plan(key, setting.value)
		if change != nil && setting.leaf == knownFirst {
			asked, err := nexthop.Asked(g.Interface, g.Address)
			if err != nil {
				return err
			}
			if asked {
				continue // the next reconciliation tries again
			}
		}
		if _, err := a.ChangeSysctl(change, err); err != nil {
			return err
		}
	}
	return nil
}

// restore puts the settings back of interfaces that have no gateway left for which they
// were changed, by this process or an earlier one, or leaves them to the next reconciliation.
func (a *askedSettings) restore() error {
	needed := make(map[undo.Setting]bool)
	for _, g := range a.gateways {
		for _, setting := range asking {
			if g.changesAsking() && setting.isOf(addressFamily(g)) {
				needed[undo.Setting{Device: g.Interface, Family: addressFamily(g), Leaf: setting.leaf}] = true
			}
		}
	}
	err := a.keepWhileAsked(needed)
	return errors.Join(err, a.Sysctls.Restore(func(r pins.SysctlRecord) bool { return isAsking(r) && !needed[undo.SettingOf(r)] }))
}

// keep changes them again where an earlier process has put them back at its end, or somebody
// else has.
func (a *askedSettings) keep() error {
	var errs []error
	for _, g := range a.gateways {
		if g.changesAsking() && g.isAsked() && a.mayHold(g) {
			errs = append(errs, a.haveEverybodyAsked(g))
		}
	}
	return errors.Join(errs...)
}

// keepWhileAsked adds knownFirst of interfaces where the kernel asks for somebody, and with it what
// it does without.
func (a *askedSettings) keepWhileAsked(needed map[undo.Setting]bool) error {
	var errs []error
	for _, r := range a.Journal.Sysctls {
		what := undo.SettingOf(r)
		if what.Leaf != knownFirst || needed[what] {
			continue
		}
		asked, err := nexthop.Asked(what.Device, unspecified[what.Family])
		if asked || err != nil {
			needed[what], needed[undo.Setting{Device: what.Device, Family: what.Family, Leaf: everybodyAgain}] = true, true
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// unspecified is nobody's address in a family.
var unspecified = map[string]netip.Addr{"ipv4": netip.IPv4Unspecified(), "ipv6": netip.IPv6Unspecified()}
