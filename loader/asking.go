package loader

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

// haveEverybodyAsked changes the settings for that of a gateway's interface.
func (l *Loader) haveEverybodyAsked(g *gateway) error {
	for _, setting := range asking {
		if !setting.isOf(addressFamily(g)) {
			continue
		}
		key := hostsettings.NeighbourKey(addressFamily(g), l.nameOf(g.Interface), setting.leaf)
		change, err := hostsettings.Plan(key, setting.value)
		if change != nil && setting.leaf == knownFirst {
			asked, err := nexthop.Asked(l.netlink, g.Interface, g.Address)
			if err != nil {
				return err
			}
			if asked {
				continue // the next reconciliation tries again
			}
		}
		if _, err := l.keepSysctl(change, err); err != nil {
			return err
		}
	}
	return nil
}

// restoreAsking puts the settings back of interfaces that have no gateway left for which they
// were changed, by this process or an earlier one, or leaves them to the next reconciliation.
func (l *Loader) restoreAsking() error {
	needed := make(map[undo.Setting]bool)
	for _, g := range l.gateways {
		for _, setting := range asking {
			if g.changesAsking() && setting.isOf(addressFamily(g)) {
				needed[undo.Setting{Device: g.Interface, Family: addressFamily(g), Leaf: setting.leaf}] = true
			}
		}
	}
	err := l.keepWhileAsked(needed)
	return errors.Join(err, l.sysctls.Restore(func(r pins.SysctlRecord) bool { return isAsking(r) && !needed[undo.SettingOf(r)] }))
}

// leaveAsking puts them back at the end: the kernel gives up in its own time then. Who finds the
// gateway held later changes them again.
func (l *Loader) leaveAsking() error { return l.sysctls.Drop(isAsking) }

// keepAsking changes them again where an earlier process has put them back at its end, or somebody
// else has.
func (l *Loader) keepAsking() error {
	var errs []error
	for _, g := range l.gateways {
		if g.changesAsking() && g.isAsked() && l.mayHold(g) {
			errs = append(errs, l.haveEverybodyAsked(g))
		}
	}
	return errors.Join(errs...)
}

// changesAsking tells whether the settings are changed for a gateway. For one that has never answered the programs have
// everybody asked (bpf/src/nobody.h).
func (g *gateway) changesAsking() bool { return (g.held || g.bridged) && !g.isUnknown() }

// isAsked tells whether the kernel asks for a gateway that is held or bridged, or is to.
func (g *gateway) isAsked() bool { return g.State == nexthop.StateProbe || !nexthop.Usable(g.State) }

// keepWhileAsked adds knownFirst of interfaces where the kernel asks for somebody, and with it what
// it does without.
func (l *Loader) keepWhileAsked(needed map[undo.Setting]bool) error {
	var errs []error
	for _, r := range l.state.Sysctls {
		what := undo.SettingOf(r)
		if what.Leaf != knownFirst || needed[what] {
			continue
		}
		asked, err := nexthop.Asked(l.netlink, what.Device, unspecified[what.Family])
		if asked || err != nil {
			needed[what], needed[undo.Setting{Device: what.Device, Family: what.Family, Leaf: everybodyAgain}] = true, true
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// unspecified is nobody's address in a family.
var unspecified = map[string]netip.Addr{"ipv4": netip.IPv4Unspecified(), "ipv6": netip.IPv6Unspecified()}

// addressFamily is the family by which a gateway is resolved.
func addressFamily(g *gateway) string {
	if g.Address.Is4() {
		return "ipv4"
	}
	return "ipv6"
}
