package snapshot

import "replypath/loader/hostsettings"

// Settings are sysctls by key; missing where the kernel has none.
type Settings map[string]int

// Of returns a sysctl of an interface and that of "all"; false where the
// kernel has none.
func (s Settings) Of(family, name, leaf string) (device, all int, known bool) {
	device, known = s[hostsettings.Key(family, name, leaf)]
	all = s[hostsettings.Key(family, "all", leaf)]
	return device, all, known
}

// Leaves are the settings of interfaces that checks ask for.
var Leaves = map[string][]string{
	"ipv4": {"rp_filter", "arp_ignore", "arp_announce", "accept_local", "accept_redirects", "send_redirects", "forwarding"},
	"ipv6": {"accept_redirects", "forwarding"},
}
