package gather

import (
	"errors"
	"io/fs"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/hostsettings"
)

// settings reads the sysctls of the managed interfaces, and of "all".
func settings(host *snapshot.Links) (snapshot.Settings, error) {
	found := make(snapshot.Settings)
	names := []string{"all"}
	for _, i := range append(host.Carriers(), host.Interfaces...) {
		names = append(names, i.Name)
	}
	for family, leaves := range snapshot.Leaves {
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
