package peers

import (
	"replypath/loader/config"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
)

// LastHop finds interfaces where on-link peers arrive by another host's MAC, as
// behind a load balancer with NAT: answered directly, they take the answer for a
// stranger's.
func LastHop(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	if h.FlowError != "" {
		found = append(found, finding.Problem(finding.Warning, "", "not looked at: "+h.FlowError, remedy.Start(&h.State)))
	}
	for _, i := range h.Interfaces {
		peers := h.LastHopPeers(i)
		if len(peers) == 0 || i.Settings.NextHop == config.NextHopLastHop {
			continue
		}
		found = append(found, finding.Problem(finding.Warning, i.Name,
			"peers of this network arrive from another's mac: "+some(peers)+": next_hop last-hop answers them through it",
			remedy.ConfigureInterface(h, i.Name, "next_hop: last-hop")))
	}
	return found
}
