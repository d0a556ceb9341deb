package remedy

import (
	"slices"
	"strings"

	"replypath/loader/config"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
)

// leftOut are the beginnings of the reasons that the configuration overrules, those
// first that are most likely meant (loader/discover/choose.go).
var leftOut = []string{"not named by the configuration", "no global address", "ignore_interfaces", "bridge with no port"}

// Manage is what has an interface be managed that routes lead by. What can never be
// is refused by replypath, named or not.
func Manage(h *snapshot.Host, name string) finding.Remedy {
	reason, show := reasonOf(&h.Links, name), "ip -details link show dev "+finding.Quote(name)
	overruled := append([]string{justCome, "dummy device"}, leftOut...)
	if !slices.ContainsFunc(overruled, func(words string) bool { return strings.HasPrefix(reason, words) }) {
		return finding.Remedy{Inspect: finding.Explained(show, "it can never be managed: "+reason)}
	}
	if e := EntryOf(h, name); e != nil && !config.IsGlob(e.Name) {
		return finding.Remedy{Inspect: finding.Explained(show, "the configuration names it, and yet it is not managed: "+reason)}
	}
	return finding.Remedy{Fix: ConfigureInterface(h, name, "")}
}

// ManageOne is what has one of the interfaces be managed that discovery left out. A
// configuration that names an interface overrules it.
func ManageOne(h *snapshot.Host) finding.Remedy {
	for _, reason := range leftOut {
		for _, u := range h.Unmanaged {
			if strings.HasPrefix(u.Reason, reason) {
				return Manage(h, u.Name)
			}
		}
	}
	return finding.Remedy{Inspect: finding.Explained("ip -brief address show", "no interface here can be managed: give the host one with a global address")}
}

// reasonOf says why an interface is not managed.
func reasonOf(l *snapshot.Links, name string) string {
	for _, u := range l.Unmanaged {
		if u.Name == name {
			return u.Reason
		}
	}
	return justCome
}

// justCome is the reason where discovery has not seen an interface yet.
const justCome = "it has just come"
