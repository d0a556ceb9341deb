// SPDX-License-Identifier: Apache-2.0

// Package settings has the checks of doctor for sysctls.
package settings

import (
	"cmp"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
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
func (s *setting) mended(found, value string) finding.Finding {
	return finding.Mending(finding.Warning, s.name, found, finding.Sysctl{Key: s.key, Value: value})
}

// shown warns of values that somebody may mean.
func (s *setting) shown(found string) finding.Finding {
	return finding.Seen(finding.Warning, s.name, found, "sysctl "+s.keyOfAll+" "+s.key)
}

// RPFilter finds a strict rp_filter, which drops what comes in by another
// interface than the routes lead back to: the very packets whose replies
// replypath is there for. The larger one of both values is in force
// (ip-sysctl.rst).
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
		f := s.mended(text, strconv.Itoa(hostsettings.RPFilterLoose))
		best := h.BestDefault(unix.AF_INET)
		if hasMost := best != nil && best.Device == i.Index; !isMended && !hasMost { // where the default route leads, few are dropped
			f.Severity = finding.Error
		}
		return f
	})
}
