package settings

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
)

// AcceptRedirects finds interfaces that learn from ICMP redirects although their
// replies have to go back through the host that they came from: behind a load
// balancer with NAT, a redirect of the balancer itself teaches the short cut.
func AcceptRedirects(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, i := range h.Interfaces {
		if i.Settings.NextHop != config.NextHopLastHop && len(h.LastHopPeers(i)) == 0 {
			continue
		}
		found = append(found, acceptRedirects4(h, i)...)
		found = append(found, acceptRedirects6(h, i)...)
	}
	return found
}

// acceptRedirects4 follows IN_DEV_RX_REDIRECTS of linux/inetdevice.h: a router
// accepts them where both values say so, another host where one of them does.
func acceptRedirects4(h *snapshot.Host, i discover.Interface) []finding.Finding {
	const leaf = "accept_redirects"
	device, all, known := h.Settings.Of("ipv4", i.Name, leaf)
	if !known || !snapshot.HasFamily(i, unix.AF_INET) {
		return nil
	}
	forwarding, _, _ := h.Settings.Of("ipv4", i.Name, "forwarding")
	effective := boolean(device != 0 || all != 0)
	if forwarding != 0 {
		effective = boolean(device != 0 && all != 0)
	}
	text := "ipv4 " + values(leaf, all, device, effective)
	if effective == 0 {
		return []finding.Finding{finding.Fine(i.Name, text)}
	}
	if forwarding != 0 { // both count then
		return []finding.Finding{finding.Mending(finding.Warning, i.Name, text+redirected, of4(i.Name, leaf, "0"))}
	}
	return []finding.Finding{switchedOff(i.Name, text+redirected, leaf, all)}
}

const redirected = ": a balancer's redirect teaches the kernel a way past it, which replypath then has to correct"

// acceptRedirects6: IPv6 knows the device's value only, and a router accepts none
// (rt6_do_redirect).
func acceptRedirects6(h *snapshot.Host, i discover.Interface) []finding.Finding {
	const leaf = "accept_redirects"
	device, all, known := h.Settings.Of("ipv6", i.Name, leaf)
	if !known || !snapshot.HasFamily(i, unix.AF_INET6) {
		return nil
	}
	forwarding, _, _ := h.Settings.Of("ipv6", i.Name, "forwarding")
	effective := boolean(device != 0 && forwarding == 0)
	text := "ipv6 " + values(leaf, all, device, effective)
	if effective == 0 {
		return []finding.Finding{finding.Fine(i.Name, text)}
	}
	return []finding.Finding{finding.Mending(finding.Warning, i.Name, text+redirected, of6(i.Name, leaf, "0"))}
}

// SendRedirects finds a load balancer that tells the servers of its own network
// to answer its clients directly. One of both values is enough to do so
// (IN_DEV_TX_REDIRECTS), and only what is forwarded causes one.
func SendRedirects(h *snapshot.Host) []finding.Finding {
	const leaf = "send_redirects"
	var found []finding.Finding
	for _, i := range h.Interfaces {
		device, all, known := h.Settings.Of("ipv4", i.Name, leaf)
		forwarding, _, _ := h.Settings.Of("ipv4", i.Name, "forwarding")
		why := balances(h, i)
		if !known || forwarding == 0 || why == "" {
			continue
		}
		effective := boolean(device != 0 || all != 0)
		text := values(leaf, all, device, effective)
		if effective == 0 {
			found = append(found, finding.Fine(i.Name, text))
			continue
		}
		found = append(found, switchedOff(i.Name,
			text+": this host balances ("+why+") and tells real servers to answer clients past it", leaf, all))
	}
	return found
}

// balances says how this host hands connections on to servers next to an
// interface, "" where it does not.
func balances(h *snapshot.Host, i discover.Interface) string {
	if h.Firewall.IPVS > 0 {
		return fmt.Sprintf("%d services of ipvs", h.Firewall.IPVS)
	}
	for _, c := range h.Firewall.Chains {
		for _, r := range c.Rules {
			for _, to := range r.DNAT {
				if h.IsOnLink(i.Index, to) && !h.IsOwn(to) {
					return fmt.Sprintf("dnat to %s in %s", to, c.String())
				}
			}
		}
	}
	return ""
}

// AcceptLocal finds interfaces that take packets whose source is an address of
// this host for genuine. Either value is enough (IN_DEV_ACCEPT_LOCAL). Who set that of
// all means interfaces that are not managed, too; who talks to itself by the wire needs
// it: neither is mended.
func AcceptLocal(h *snapshot.Host) []finding.Finding {
	const leaf = "accept_local"
	var found []finding.Finding
	for _, i := range h.Interfaces {
		device, all, known := h.Settings.Of("ipv4", i.Name, leaf)
		if !known {
			continue
		}
		if device == 0 && all == 0 {
			found = append(found, finding.Fine(i.Name, values(leaf, all, device, 0)))
			continue
		}
		text := values(leaf, all, device, 1) +
			": packets from this host's own addresses are taken in, which replypath records no flow for"
		if all != 0 || talksToItself(h.Rules) {
			found = append(found, finding.Seen(finding.Warning, i.Name, text, showSettings(i.Name, leaf)))
			continue
		}
		found = append(found, finding.Mending(finding.Warning, i.Name, text, of4(i.Name, leaf, "0")))
	}
	return found
}

// talksToItself tells a host whose own addresses are looked up by interface, which
// takes the rule for the local table away from its place: it sends packets to itself
// by the wire, and needs accept_local for them.
func talksToItself(rules []snapshot.Rule) bool {
	return slices.ContainsFunc(rules, func(r snapshot.Rule) bool {
		return r.Family == unix.AF_INET && r.Table == unix.RT_TABLE_LOCAL && r.Priority != 0
	})
}
