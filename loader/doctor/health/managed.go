package health

import (
	"strings"

	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
)

// ManagedInterfaces tells which interfaces everything else is about; none is
// nothing to be right about.
func ManagedInterfaces(h *snapshot.Host) []finding.Finding {
	var names []string
	for _, i := range h.Interfaces {
		names = append(names, i.Name)
	}
	if len(names) == 0 {
		var reasons []string
		for _, u := range h.Unmanaged {
			reasons = append(reasons, u.Name+": "+u.Reason)
		}
		return []finding.Finding{finding.Advised(finding.Error, "", "no interface is managed ("+strings.Join(reasons, "; ")+")", remedy.ManageOne(h))}
	}
	return []finding.Finding{finding.Fine("", strings.Join(names, ", "))}
}
