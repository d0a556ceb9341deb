package doctor

import "strings"

// managedInterfaces tells which interfaces everything else is about; none is
// nothing to be right about.
func managedInterfaces(h *Host) []Finding {
	var names []string
	for _, i := range h.Interfaces {
		names = append(names, i.Name)
	}
	if len(names) == 0 {
		var reasons []string
		for _, u := range h.Unmanaged {
			reasons = append(reasons, u.Name+": "+u.Reason)
		}
		return []Finding{advised(Error, "", "no interface is managed ("+strings.Join(reasons, "; ")+")", manageOne(h))}
	}
	return []Finding{fine("", strings.Join(names, ", "))}
}
