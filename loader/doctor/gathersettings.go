package doctor

import (
	"errors"
	"io/fs"

	"replypath/loader/hostsettings"
)

// leaves are the settings of interfaces that checks ask for.
var leaves = map[string][]string{
	"ipv4": {"rp_filter", "arp_ignore", "arp_announce", "accept_local", "accept_redirects", "send_redirects", "forwarding"},
	"ipv6": {"accept_redirects", "forwarding"},
}

// settings reads the sysctls of the managed interfaces, and of "all".
func settings(host *Links) (Settings, error) {
	found := make(Settings)
	names := []string{"all"}
	for _, i := range append(host.carriers(), host.Interfaces...) {
		names = append(names, i.Name)
	}
	for family, leaves := range leaves {
		for _, name := range names {
			for _, leaf := range leaves {
				key := hostsettings.Key(family, name, leaf)
				value, err := hostsettings.ReadNumber(key)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return nil, err
				}
				found[key] = value
			}
		}
	}
	return found, nil
}
