package doctor

import (
	"fmt"

	"replypath/loader/hostsettings"
)

// of4 and of6 name a setting of an interface, or of "all".
func of4(name, leaf, value string) sysctl {
	return sysctl{hostsettings.Key("ipv4", name, leaf), value}
}

// of6 is that for IPv6.
func of6(name, leaf, value string) sysctl {
	return sysctl{hostsettings.Key("ipv6", name, leaf), value}
}

// values shows all three values of a sysctl.
func values(leaf string, all, device, effective int) string {
	return fmt.Sprintf("%s: all %d, device %d, effective %d", leaf, all, device, effective)
}

// switchedOff is mending for a setting that either value switches on. That of all interfaces is of those too that are
// not managed: it is shown only.
func switchedOff(name, found, leaf string, all int) Finding {
	if all != 0 {
		return seen(Warning, name, found+": "+of4("all", leaf, "").key+" does it for every interface", showSettings(name, leaf))
	}
	return mending(Warning, name, found, of4(name, leaf, "0"))
}

// showSettings reads a setting of an interface, and that of all.
func showSettings(name, leaf string) string {
	return "sysctl " + of4("all", leaf, "").key + " " + of4(name, leaf, "").key
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}
