// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"net"

	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

// Repaired returns what `replypath doctor --fix` changed by the name that the sysctl has now, nil where it
// went with its interface.
func Repaired(r *pins.RepairRecord) (*hostsettings.Change, error) {
	return present(r.SysctlRecord, func() (string, error) { return nameOfRepaired(r) })
}

// nameOfRepaired returns the present name of the interface of a record, "" where the index
// is no longer its own: it is where the interface has its name, or its MAC under another.
func nameOfRepaired(r *pins.RepairRecord) (string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("look for the interface of sysctl %s: %w", r.Key, err)
	}
	for _, i := range interfaces {
		if i.Index == r.Interface && (i.Name == r.Name || r.MAC != "" && i.HardwareAddr.String() == r.MAC) {
			return i.Name, nil
		}
	}
	return "", nil
}
