package doctor

import "fmt"

// check is one thing to look at. Its name is fixed.
type check struct {
	name string
	// says is what it finds, for the documentation.
	says string
	// fine is what stands in the place of findings where there are none.
	fine    string
	examine func(*Host) []Finding
}

// checks are in the order in which findings of the same severity are shown.
var checks = []check{
	{"managed", "which interfaces are managed; an error where there is none", "", managedInterfaces},
	{"attached", "a managed interface without replypath's programs, although it was attached",
		"both programs are on every managed interface, or nothing is attached yet", missingPrograms},
	{"pin-directory", "a pin directory that is not on a bpf file system, holds something else, or cannot be written to",
		"a start can pin its programs", pinPlaces},
	{"btf", "a kernel without BTF", "the kernel describes its types", kernelTypes},
	{"kernel", "a kernel that refuses programs, or lacks what makes them do better (`features[]` of `status`)",
		"the kernel has all that replypath makes use of", kernelPrograms},
	{"capabilities", "capabilities that this process lacks", "this process has all that a start takes", capabilities},
	{"configuration", "a datapath without a daemon; a file that has changed, is gone or wrong since it was loaded",
		"nothing is attached: what a start would read is examined", configurations},
	{"missing-interface", "an interface that the configuration or the daemon's command line names, and that is not there",
		"every interface that is named is there", missingInterfaces},
	{"wrong-way", "replies that leave by the wrong interface now: observed, or not to be corrected",
		"no reply was seen to leave by the wrong interface just now", wrongWays},
	{"rp-filter", "strict `rp_filter` on a managed interface", "no managed interface has ipv4", rpFilter},
	{"reverse-path-rules", "nftables' `fib saddr . iif`, iptables' `rpfilter`, firewalld's `IPv6_rpfilter`",
		"no firewall rule looks at the way back", reversePathRules},
	{"default-route", "a family without a default route, or with one that is blackhole, unreachable or prohibit",
		"nothing to route: the managed interfaces have no address, or belong to vrfs", defaultRoutes},
	{"routed-interface", "a default route by an interface that is not managed, as one that the configuration does not name",
		"no default route, or it is by a managed interface", routedInterfaces},
	{"refusing-routes", "routes and rules that refuse packets to some peers (blackhole, unreachable, prohibit)",
		"no route or rule refuses peers", refusingRoutes},
	{"route-without-gateway", "a route to everywhere without a gateway: every peer becomes a neighbour",
		"no such route leads everywhere", routesWithoutGateway},
	{"own-gateway", "a route or a configured gateway that is an address of this host",
		"no gateway is this host itself", ownGateways},
	{"gateway", "a gateway that does not answer ARP or neighbour discovery", "no gateway is known", silentGateways},
	{"unnamed-router", "peers that come through a router which no route of their interface names, while routes lead to somewhere else by others",
		"no flow came through such a router", unnamedRouters},
	{"arp-ignore", "`arp_ignore` with two interfaces in one network, a macvlan, or a virtual address on lo",
		"no two interfaces share a network or a wire, and no address is on lo only", arpIgnore},
	{"arp-announce", "`arp_announce`, likewise",
		"no two interfaces share a network, and no address is on lo only", arpAnnounce},
	{"loopback-address", "addresses on lo or a dummy device only, and what `loopback_addresses` says of them",
		"no address is on lo or a dummy device only", loopbackAddresses},
	{"accept-local", "`accept_local` is on", "accept_local is off", acceptLocal},
	{"neighbour-table", "a neighbour table that is nearly full (`gc_thresh3`), or was full",
		"its limits are shown in the host's first network namespace only", neighbourTable},
	{"accept-redirects", "`accept_redirects` where replies have to go back through a load balancer (last-hop)",
		"no interface answers through the host that asked (last-hop)", acceptRedirects},
	{"send-redirects", "`send_redirects` on a load balancer (IPVS, or DNAT to a neighbour)",
		"this host does not balance", sendRedirects},
	{"last-hop", "peers of the own network that arrive from another's MAC: needs `next_hop: last-hop`",
		"no flow shows an on-link peer that arrives from another's mac", lastHop},
	{"needless-rules", "`ip rule from` an own address, whether anything still needs it, and the file that it stands in",
		"no rule leads an own address to a table of its own", needlessRules},
	{"needless-marks", "`ip rule fwmark` with connection marks that do replypath's work",
		"no rule uses a connection mark to find the way back", needlessMarks},
	{"rule-never-matches", "a rule with an own address and `iif` (or `dev`): it never matches",
		"no rule has an own address and an incoming interface", rulesThatNeverMatch},
	{"udp-connect", "a UDP daemon that connects its wildcard socket (iperf3's server)",
		"no connected udp socket shares its port with a wildcard one", connectedSockets},
	{"mtu", "managed interfaces with different MTUs", "all managed interfaces have the same mtu", mtus},
	{"offloads", "segmentation offloads that one managed interface lacks",
		"all managed interfaces have the same segmentation offloads", offloads},
	{"tc-programs", "programs and filters of others in the same TC hooks", "nobody else is in the tc hooks", otherPrograms},
	{"outgoing-interface-rules", "firewall rules by the outgoing interface, which see the kernel's choice",
		"no firewall rule looks at the outgoing interface of replies", outgoingRules},
	{"netdev-egress", "egress chains of netdev, which moved replies pass by", "no such chain", egressChains},
	{"legacy-iptables", "tables of iptables-legacy, which cannot be looked into", "iptables-legacy is not in use", legacyTables},
	{"hw-tc-offload", "`hw-tc-offload` is on", "it is off", hardwareTC},
	{"flowtable-offload", "a flow table with `flags offload`", "no flow table is offloaded to hardware", flowtables},
	{"ipsec-offload", "IPsec packet offload", "no ipsec packet offload", offloadedIPsec},
	{"sr-iov", "SR-IOV virtual functions", "no virtual functions", virtualFunctions},
	{"xdp", "XDP programs, AF_XDP with them", "no xdp program", xdpPrograms},
}

// needs are the parts of the host that a check cannot do without, of those that not everybody may read.
var needs = map[string][]string{
	"attached":                 {partPins, partHooks},
	"kernel":                   {partKernel},
	"configuration":            {partPins},
	"wrong-way":                {partPins, partTraffic},
	"reverse-path-rules":       {partFirewall},
	"gateway":                  {partGateways},
	"accept-redirects":         {partFlows},
	"send-redirects":           {partFirewall, partBalancer},
	"last-hop":                 {partFlows},
	"needless-rules":           {partFiles},
	"needless-marks":           {partFirewall},
	"tc-programs":              {partHooks},
	"outgoing-interface-rules": {partFirewall},
	"netdev-egress":            {partFirewall},
	"legacy-iptables":          {partFirewall},
	"flowtable-offload":        {partFirewall},
	"ipsec-offload":            {partOffloads},
}

// notLookedAt says in a check's place that it has nothing to go by.
func (c *check) notLookedAt(h *Host) (Finding, bool) {
	for _, part := range needs[c.name] {
		if takes, unread := h.Unread[part]; unread {
			return seen(Warning, "", fmt.Sprintf("not looked at: to read %s takes %s", part, takes), asRoot(&h.State)), true
		}
	}
	return Finding{}, false
}
