// Package settings has the checks of doctor for sysctls.
package settings

import (
	"fmt"

	"replypath/loader/doctor/finding"
	"replypath/loader/hostsettings"
)

// of4 and of6 name a setting of an interface, or of "all".
func of4(name, leaf, value string) finding.Sysctl {
	return finding.Sysctl{Key: hostsettings.Key("ipv4", name, leaf), Value: value}
}

// of6 is that for IPv6.
func of6(name, leaf, value string) finding.Sysctl {
	return finding.Sysctl{Key: hostsettings.Key("ipv6", name, leaf), Value: value}
}

// values shows all three values of a sysctl.
func values(leaf string, all, device, effective int) string {
	return fmt.Sprintf("%s: all %d, device %d, effective %d", leaf, all, device, effective)
}

// switchedOff is mending for a setting that either value switches on. That of all interfaces is of those too that are
// not managed: it is shown only.
func switchedOff(name, found, leaf string, all int) finding.Finding {
	if all != 0 {
		return finding.Seen(finding.Warning, name, found+": "+of4("all", leaf, "").Key+" does it for every interface", showSettings(name, leaf))
	}
	return finding.Mending(finding.Warning, name, found, of4(name, leaf, "0"))
}

// showSettings reads a setting of an interface, and that of all.
func showSettings(name, leaf string) string {
	return "sysctl " + of4("all", leaf, "").Key + " " + of4(name, leaf, "").Key
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}
