package settings

import (
	"strconv"

	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/hostsettings"
)

// RPFilter finds a strict rp_filter, which drops what comes in by another
// interface than the routes lead back to: the very packets whose replies
// replypath is there for. The larger one of both values is in force
// (ip-sysctl.rst).
func RPFilter(h *snapshot.Host) []finding.Finding {
	const leaf = "rp_filter"
	var found []finding.Finding
	for _, i := range h.Interfaces {
		device, all, known := h.Settings.Of("ipv4", i.Name, leaf)
		if !known {
			continue
		}
		effective := max(device, all)
		text := values(leaf, all, device, effective)
		if effective != hostsettings.RPFilterStrict {
			found = append(found, finding.Fine(i.Name, text))
			continue
		}
		text += ", strict: what comes in here is dropped where the route back leaves by another interface"
		if h.Attached && !h.Enforcing[i.Index] {
			text += "; replypath only observes here and leaves it so, and sees none or only a part of that"
		}
		found = append(found, finding.Mending(finding.Error, i.Name, text,
			of4(i.Name, leaf, strconv.Itoa(hostsettings.RPFilterLoose))))
	}
	return found
}
