// Package settings has the checks of doctor for sysctls.
package settings

import (
	"fmt"

	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/hostsettings"
)

// setting is a sysctl of an interface, with that of all interfaces.
type setting struct {
	family, name, leaf string
	device, all        int
}

// settingOf returns a sysctl of an interface; false where the kernel has none.
func settingOf(h *snapshot.Host, family, name, leaf string) (s setting, known bool) {
	s = setting{family: family, name: name, leaf: leaf}
	s.device, s.all, known = h.Settings.Of(family, name, leaf)
	return s, known
}

// isOn tells a switch that either value turns on.
func (s *setting) isOn() bool { return s.device != 0 || s.all != 0 }

// values shows all three values.
func (s *setting) values(effective int) string {
	return fmt.Sprintf("%s: all %d, device %d, effective %d", s.leaf, s.all, s.device, effective)
}

// switched shows a switch.
func (s *setting) switched(on bool) string {
	if on {
		return s.values(1)
	}
	return s.values(0)
}

// key is that of the interface.
func (s *setting) key() string { return hostsettings.Key(s.family, s.name, s.leaf) }

// keyOfAll is that of all interfaces.
func (s *setting) keyOfAll() string { return hostsettings.Key(s.family, "all", s.leaf) }

// mended warns of a value of the interface that another has to take the place of.
func (s *setting) mended(found, value string) finding.Finding {
	return finding.Mending(finding.Warning, s.name, found, finding.Sysctl{Key: s.key(), Value: value})
}

// shown warns of values that somebody may mean.
func (s *setting) shown(found string) finding.Finding {
	return finding.Seen(finding.Warning, s.name, found, "sysctl "+s.keyOfAll()+" "+s.key())
}

// switchedOff is mended for a setting that either value switches on. That of all interfaces is of those too that are
// not managed: it is shown only.
func (s *setting) switchedOff(found string) finding.Finding {
	if s.all != 0 {
		return s.shown(found + ": " + s.keyOfAll() + " does it for every interface")
	}
	return s.mended(found, "0")
}
