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
	var found []finding.Finding
	for _, i := range h.Interfaces {
		s, known := settingOf(h, "ipv4", i.Name, "rp_filter")
		if !known {
			continue
		}
		effective := max(s.device, s.all)
		text := s.values(effective)
		if effective != hostsettings.RPFilterStrict {
			found = append(found, finding.Fine(i.Name, text))
			continue
		}
		text += ", strict: what comes in here is dropped where the route back leaves by another interface"
		if h.Attached && !h.Enforcing[i.Index] {
			text += "; replypath only observes here and leaves it so, and sees none or only a part of that"
		}
		f := s.mended(text, strconv.Itoa(hostsettings.RPFilterLoose))
		f.Severity = finding.Error
		found = append(found, f)
	}
	return found
}
