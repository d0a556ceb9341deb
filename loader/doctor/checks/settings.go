// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/hostsettings"
)

// setting is a sysctl of an interface, with that of all interfaces.
type setting struct {
	name, leaf    string
	key, keyOfAll string
	device, all   int
}

// settingOf returns a sysctl of an interface; false where the kernel has none.
func settingOf(h *snapshot.Host, family, name, leaf string) (s setting, known bool) {
	s = setting{name: name, leaf: leaf}
	s.key, s.keyOfAll = hostsettings.Key(family, name, leaf), hostsettings.Key(family, "all", leaf)
	s.device, known = h.Settings[s.key]
	s.all = h.Settings[s.keyOfAll]
	return s, known
}

// values shows all three values.
func (s *setting) values(effective int) string {
	return fmt.Sprintf("%s: all %d, device %d, effective %d", s.leaf, s.all, s.device, effective)
}

// mended warns of a value of the interface that another has to take the place of.
func (s *setting) mended(found string, value int) finding.Finding {
	return finding.Problem(finding.Warning, s.name, found, fmt.Sprintf("sysctl -w %s=%d", s.key, value))
}

// shown warns of values that somebody may mean.
func (s *setting) shown(found string) finding.Finding {
	return finding.Seen(finding.Warning, s.name, found, "sysctl "+s.keyOfAll+" "+s.key)
}

// RPFilter finds a strict rp_filter, which drops what comes in by another
// interface than the routes lead back to: the very packets whose replies
// replypath is there for. The larger one of both values is in force
// (ip-sysctl.rst). It is an error where packets were dropped so, and requests are without an answer.
func RPFilter(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Interfaces, func(i *discover.Interface) finding.Finding {
		s, known := settingOf(h, "ipv4", i.Name, "rp_filter")
		if !known {
			return finding.None
		}
		effective := max(s.device, s.all)
		text := s.values(effective)
		if effective != hostsettings.RPFilterStrict {
			return finding.Fine(i.Name, text)
		}
		text = fmt.Sprintf("rp_filter of %s is strict (all %d, device %d): what arrives there is dropped if the route back leads by another interface",
			i.Name, s.all, s.device)
		if h.Attached && !h.Enforcing[i.Index] {
			text += "; replypath only observes here and leaves it: it does not see what is dropped"
		}
		text += hostsettings.Dropped(h.RPFilterDrops)
		isMended := !h.Attached && h.Config.ManageRPFilter && cmp.Or(i.Settings.Mode, h.Config.Mode) == config.ModeEnforce
		if isMended {
			text += "; enforcing makes it loose"
		}
		f := s.mended(text, hostsettings.RPFilterLoose)
		best, drops := h.BestDefault(unix.AF_INET), h.RPFilterDrops != nil && *h.RPFilterDrops > 0
		hasMost := best != nil && best.Device == i.Index // few are dropped there
		switch {
		case drops && !hasMost && (!h.Attached || isUnanswered(h, i.Name) || h.Recent(i.Name).Silent > 0):
			f.Severity = finding.Error
		case h.Attached && !h.Enforcing[i.Index]: // nobody is known to ask
			f.Severity = finding.Note
		}
		return f
	})
}

// isUnanswered tells whether requests by an interface get no reply now.
func isUnanswered(h *snapshot.Host, name string) bool {
	return slices.ContainsFunc(Unanswered(h), func(f finding.Finding) bool {
		return finding.OrEmpty(f.Interface) == name && f.Severity != finding.Note
	})
}

// ARPIgnore finds interfaces that answer ARP requests for addresses that other
// interfaces have. The larger one of both values is in force.
//
//	1  only for addresses of the interface itself
//	2  also only to senders in the same subnet
//	3  not for addresses of scope host
//	8  for none (ip-sysctl.rst)
func ARPIgnore(h *snapshot.Host) []finding.Finding {
	isEnough := func(effective int) bool { return effective == 1 || effective == 2 || effective == 8 }
	return finding.Each(append(h.Carriers(), h.Interfaces...), func(i *discover.Interface) finding.Finding {
		strangers, virtual, alone := othersOf(h, i)
		s, known := settingOf(h, "ipv4", i.Name, "arp_ignore")
		if !known || len(strangers) == 0 {
			return finding.None
		}
		text := s.values(max(s.device, s.all))
		if isEnough(max(s.device, s.all)) {
			return finding.Fine(i.Name, text)
		}
		text = fmt.Sprintf("%s answers arp requests for %s: %s", i.Name, strings.Join(strangers, ", "), text)
		switch {
		case virtual:
			// A balancer loses the address to this host; but where there is none, nobody finds it
			// any more without these answers.
			return s.shown(text + ": wrong where a balancer has it (lvs direct routing), right where this host alone has it")
		case h.Managed(i.Index) == nil, !isEnough(max(1, s.all)): // the larger one stays in force
			return s.shown(text)
		case alone:
			return s.shown(text + ": wrong where these are reached by their own interface, right where they are not")
		}
		return s.mended(text, 1)
	})
}

// othersOf names the IPv4 addresses that hosts on an interface's network may ask
// for although it does not have them: those of other interfaces in the same
// network or of a macvlan above it, and all that only lo or a dummy device has.
// virtual tells that one of the latter is there, as with LVS direct routing; alone that nothing shows that hosts on the
// network reach one of the former by its own interface, so that these answers may be all that makes it reachable.
func othersOf(h *snapshot.Host, i *discover.Interface) (names []string, virtual, alone bool) {
	if i.NoARP {
		return nil, false, false
	}
	for _, d := range h.Devices {
		for _, p := range d.Addresses {
			a := p.Addr()
			isVirtual, isAbove := isVirtual(&h.Links, a), h.Carries(i.Index, d.Index)
			if d.Index == i.Index || !a.Is4() || has(i, a) || !isVirtual && !isAbove && !isNear(&h.Links, i, a) {
				continue
			}
			names = append(names, fmt.Sprintf("%s of %s", a, d.Name))
			virtual = virtual || isVirtual
			alone = alone || !isVirtual && !isAbove && !isReachedBy(h, &d, a, i)
		}
	}
	return names, virtual, alone
}

// isReachedBy tells whether hosts on another interface's network seem to reach an address by the device that has it:
// the device is up, and is in no other network or somebody of this one has answered there.
func isReachedBy(h *snapshot.Host, d *snapshot.Device, a netip.Addr, i *discover.Interface) bool {
	if m := h.Managed(d.Index); d.Down || m != nil && !m.Up {
		return false
	}
	ofOther := func(p netip.Prefix) bool { return p.Addr().Is4() && !p.Masked().Contains(a) }
	answered := func(n snapshot.Neighbour) bool {
		inNetwork := func(p netip.Prefix) bool { return p.Masked().Contains(n.Address) }
		return n.Interface == d.Index && len(n.MAC) > 0 && slices.ContainsFunc(i.Addresses, inNetwork)
	}
	return !slices.ContainsFunc(d.Addresses, ofOther) || slices.ContainsFunc(h.Neighbours, answered)
}

// isNear tells whether hosts on an interface's network take an address for one of
// their network.
func isNear(l *snapshot.Links, i *discover.Interface, a netip.Addr) bool {
	inNetwork := func(p netip.Prefix) bool { return p.Masked().Contains(a) && !p.IsSingleIP() }
	return slices.ContainsFunc(i.Addresses, inNetwork) || l.IsOnLink(i.Index, a)
}

// has tells whether an interface has an address.
func has(i *discover.Interface, a netip.Addr) bool {
	return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
}

// isVirtual tells whether only lo or a dummy device has an address.
func isVirtual(l *snapshot.Links, a netip.Addr) bool {
	return slices.ContainsFunc(l.Own, func(o discover.OwnAddress) bool { return o.Address == a && o.LoopbackOnly })
}

// LoopbackAddresses names the addresses that only lo or a dummy device has, and
// what the configuration says of replies from them.
func LoopbackAddresses(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Own, func(o *discover.OwnAddress) finding.Finding {
		isNamed := func(p netip.Prefix) bool { return p.Contains(o.Address) }
		if !o.LoopbackOnly || slices.ContainsFunc(h.Config.Addresses, isNamed) {
			return finding.None
		}
		way := "follow the routing table, as lvs direct routing needs" +
			" (loopback_addresses: kernel; symmetric sends them by the interface of the request)"
		if h.Config.LoopbackAddresses == config.LoopbackSymmetric {
			way = "go by the interface of the request (loopback_addresses: symmetric; lvs direct routing needs kernel)"
		}
		return finding.Fine("", fmt.Sprintf("%s is on lo or a dummy device only: its replies %s", o.Address, way))
	})
}
