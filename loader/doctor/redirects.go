package doctor

import (
	"fmt"

	"replypath/loader/config"
	"replypath/loader/discover"
)

// acceptRedirects finds interfaces that learn from ICMP redirects although their
// replies have to go back through the host that they came from: behind a load
// balancer with NAT, a redirect of the balancer itself teaches the short cut.
func acceptRedirects(h *Host) []Finding {
	var found []Finding
	for _, i := range h.Interfaces {
		if i.Settings.NextHop != config.NextHopLastHop && len(h.lastHopPeers(i)) == 0 {
			continue
		}
		found = append(found, acceptRedirects4(h, i)...)
		found = append(found, acceptRedirects6(h, i)...)
	}
	return found
}

// acceptRedirects4 follows IN_DEV_RX_REDIRECTS of linux/inetdevice.h: a router
// accepts them where both values say so, another host where one of them does.
func acceptRedirects4(h *Host, i discover.Interface) []Finding {
	const leaf = "accept_redirects"
	device, all, known := h.setting("ipv4", i.Name, leaf)
	if !known || !hasFamily(i, true) {
		return nil
	}
	forwarding, _, _ := h.setting("ipv4", i.Name, "forwarding")
	effective := boolean(device != 0 || all != 0)
	if forwarding != 0 {
		effective = boolean(device != 0 && all != 0)
	}
	text := "ipv4 " + values(leaf, all, device, effective)
	if effective == 0 {
		return []Finding{finding(OK, i.Name, text, "")}
	}
	return []Finding{mending(Warning, i.Name, text+redirected, off(i.Name, leaf, all, device)...)}
}

const redirected = ": a balancer's redirect teaches the kernel a way past it, which replypath then has to correct"

// acceptRedirects6: IPv6 knows the device's value only, and a router accepts none
// (rt6_do_redirect).
func acceptRedirects6(h *Host, i discover.Interface) []Finding {
	const leaf = "accept_redirects"
	device, all, known := h.setting("ipv6", i.Name, leaf)
	if !known || !hasFamily(i, false) {
		return nil
	}
	forwarding, _, _ := h.setting("ipv6", i.Name, "forwarding")
	effective := boolean(device != 0 && forwarding == 0)
	text := "ipv6 " + values(leaf, all, device, effective)
	if effective == 0 {
		return []Finding{finding(OK, i.Name, text, "")}
	}
	return []Finding{mending(Warning, i.Name, text+redirected, of6(i.Name, leaf, "0"))}
}

// sendRedirects finds a load balancer that tells the servers of its own network
// to answer its clients directly. One of both values is enough to do so
// (IN_DEV_TX_REDIRECTS), and only what is forwarded causes one.
func sendRedirects(h *Host) []Finding {
	const leaf = "send_redirects"
	var found []Finding
	for _, i := range h.Interfaces {
		device, all, known := h.setting("ipv4", i.Name, leaf)
		forwarding, _, _ := h.setting("ipv4", i.Name, "forwarding")
		why := h.balances(i)
		if !known || forwarding == 0 || why == "" {
			continue
		}
		effective := boolean(device != 0 || all != 0)
		text := values(leaf, all, device, effective)
		if effective == 0 {
			found = append(found, finding(OK, i.Name, text, ""))
			continue
		}
		found = append(found, mending(Warning, i.Name,
			text+": this host balances ("+why+") and tells real servers to answer clients past it",
			off(i.Name, leaf, all, device)...))
	}
	return found
}

// balances says how this host hands connections on to servers next to an
// interface, "" where it does not.
func (h *Host) balances(i discover.Interface) string {
	if h.IPVS > 0 {
		return fmt.Sprintf("%d services of ipvs", h.IPVS)
	}
	for _, c := range h.Firewall.Chains {
		for _, r := range c.Rules {
			for _, to := range r.DNAT {
				if _, onLink := h.onLink(i.Index, to); onLink && !h.isOwn(to) {
					return fmt.Sprintf("dnat to %s in %s", to, c.name())
				}
			}
		}
	}
	return ""
}

// off switches a setting off that either value switches on.
func off(name, leaf string, all, device int) []sysctl {
	var settings []sysctl
	if all != 0 {
		settings = append(settings, of4("all", leaf, "0"))
	}
	if device != 0 {
		settings = append(settings, of4(name, leaf, "0"))
	}
	return settings
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// acceptLocal finds interfaces that take packets whose source is an address of
// this host for genuine. Either value is enough (IN_DEV_ACCEPT_LOCAL).
func acceptLocal(h *Host) []Finding {
	const leaf = "accept_local"
	var found []Finding
	for _, i := range h.Interfaces {
		device, all, known := h.setting("ipv4", i.Name, leaf)
		if !known || device == 0 && all == 0 {
			continue
		}
		text := values(leaf, all, device, 1) +
			": packets from this host's own addresses are taken in, which replypath records no flow for"
		f := mending(Warning, i.Name, text, off(i.Name, leaf, all, device)...)
		f.sysctls = nil // it is off by default: who switched it on has to decide
		found = append(found, f)
	}
	return found
}
