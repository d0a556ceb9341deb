package doctor

import "replypath/loader/config"

// lastHop finds interfaces where on-link peers arrive by another host's MAC, as
// behind a load balancer with NAT: answered directly, they take the answer for a
// stranger's.
func lastHop(h *Host) []Finding {
	var found []Finding
	if h.FlowError != "" {
		found = append(found, problem(Warning, "", "not looked at: "+h.FlowError, start(&h.State)))
	}
	for _, i := range h.Interfaces {
		peers := h.lastHopPeers(i)
		if len(peers) == 0 || i.Settings.NextHop == config.NextHopLastHop {
			continue
		}
		found = append(found, problem(Warning, i.Name,
			"peers of this network arrive from another's mac: "+some(peers)+": next_hop last-hop answers them through it",
			configureInterface(h, i.Name, "next_hop: last-hop")))
	}
	return found
}
