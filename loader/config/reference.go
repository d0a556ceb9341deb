package config

import (
	_ "embed" // for Example
	"fmt"
)

// Example is a file that uses every key.
//
//go:embed example.yaml
var Example string

// Key describes a key of the file for a reader.
type Key struct {
	Path    string // "interfaces[].next_hop"
	Values  string
	Default string
	Text    string // one or more sentences
}

// Reference describes every key in the order of the file. Tests hold it against
// what Parse takes.
func Reference() []Key {
	var keys []Key
	keys = append(keys, interfaceKeys()...)
	keys = append(keys, policyKeys()...)
	keys = append(keys, hostKeys()...)
	return append(keys, reportKeys()...)
}

func interfaceKeys() []Key {
	return []Key{
		{"interfaces", "list of maps", "every interface with a global unicast address, except loopback, dummy, " +
			"replypath's own, bridges whose ports are all veth or tap, enslaved ports (their master counts; " +
			"the ports of a VRF do count), and *ignore_interfaces*",
			"The managed interfaces: those that replypath learns from and sends to. One that does not exist yet is managed as soon as it appears. " +
				"Until then a name without a glob has **replypath_interface_attached** 0, and **/healthz** answers 503."},
		{"interfaces[].name", "name, alternative name or glob", "none: required",
			"Which interface the map is for. Where several match one, its name goes before an alternative name, and that before a glob; " +
				"globs that match the same interface have to say the same, or the file is refused; where such an interface appears later, the first holds. " +
				"An address label such as eth0:1 is refused: use the name of the interface."},
		{"interfaces[].mode", list(modes), "*mode*", "Overrides *mode* on this interface."},
		{"interfaces[].next_hop", list(nextHops), string(NextHopAuto),
			"Which MAC address a moved reply gets. **gateway**: that of the interface's gateway, as the kernel knows it; " +
				"where no gateway has a route to the peer, and it did not come through one, the reply goes as routed. " +
				"**last-hop**: the source MAC of the flow's inbound frames. **auto**: the inbound MAC for peers that are on-link, " +
				"else the gateway that the flow came through, or the only one if a route by it leads to the peer, else the inbound MAC. Interfaces without an Ethernet header (tun, WireGuard) need none: " +
				"last-hop is refused where the interface is there, and served as auto where it appears later."},
		{"interfaces[].gateways", "list of addresses", "found in the routing tables",
			"The gateways of the interface. They replace those of their family that the routing tables name, and take packets to everywhere."},
		{"ignore_interfaces", "list of names and globs", `["docker*", "br-*", "virbr*", "cni*", "flannel*", "cilium*", "kube*", "cali*", "vxlan.calico", "tailscale*", "podman*", "lxdbr*", "incusbr*"]`,
			"What is left alone when interfaces are found rather than listed, and what a glob under *interfaces* would take in by accident."},
	}
}

func policyKeys() []Key {
	return []Key{
		{"mode", list(modes), string(ModeEnforce), "**enforce** sends replies out of the interface that the question came in by; **observe** counts those that would be moved, and changes nothing of the host."},
		{"follow", list(follows), string(FollowValidated),
			"When a flow starts to arrive by another interface or from another MAC. **pinned**: it stays with its first packet. " +
				"**latest**: it goes with its last packet. **validated**: TCP moves when the segment is plausible to its socket; " +
				"what has no connection moves when its present way is down or has been silent for a second."},
		{"scope", list(scopes), string(ScopeLocal), "**local**: flows to addresses of this host. **all**: forwarded flows too."},
		{"loopback_addresses", list(loopbacks), string(LoopbackKernel),
			"Replies from an address that only lo or a dummy device has. **kernel**: they go as routed, as LVS direct routing needs. " +
				"**symmetric**: they are treated as those of any own address, as anycast hosts want."},
		{"exclude", fmt.Sprintf("list of networks, addresses and maps, at most %d", MaxExclusions), "none",
			"What is never recorded and never moved. A network or an address is that of a peer; a map matches when all that it names matches."},
		{"exclude[].peer", "network or address", "any", "The other end."},
		{"exclude[].self", "network or address", "any", "The own end."},
		{"exclude[].protocol", "name or number", "any", "As in *protocols*."},
		{"exclude[].self_port", "1 to 65535", "any", "The own port of TCP, UDP and SCTP."},
		{"protocols", "list of names and numbers", "[tcp, udp, icmp, icmpv6, sctp]",
			"The IP protocols that are served. Others than these five (esp, gre, ipip, vrrp, a number) are told apart by their two addresses only."},
	}
}

func hostKeys() []Key {
	return []Key{
		{"flow_table", "map", "", "The size of the tables in the kernel."},
		{"flow_table.max_entries", fmt.Sprintf("%d to %d", MinEntries, MaxEntries), "262144",
			"Entries of the largest table; the others are fixed fractions of it. A full table forgets first what is over or never became a conversation, then what was quiet longest. " +
				"The memory, some 250 bytes an entry, is taken at the start."},
		{"fallback_route", list(booleans), "true", "Replies are still built when the default route is gone. It needs an interface that enforces."},
		{"manage_rp_filter", list(booleans), "true",
			"Strict rp_filter (1) becomes loose (2) on managed interfaces that enforce. This is logged and shown by **replypath status**; **replypath detach** restores it."},
		{"repair_udp_source", list(repairs), string(RepairAuto),
			"A UDP socket that is bound to no address answers from the address that it was asked on. " +
				"**auto**: once a socket that needs it is there, as it costs every unconnected send a few percent."},
	}
}

func reportKeys() []Key {
	return []Key{
		{"metrics", "map", "", "The Prometheus metrics."},
		{"metrics.listen", "host:port", `"127.0.0.1:9945"`, `Where they are served. "" switches them off; without a host they are served on all addresses.`},
		{"metrics.web_config_file", "absolute path", `""`,
			"A web configuration file of Prometheus' exporter-toolkit, for TLS and basic authentication."},
		{"log", "map", "", "The log on standard error. It never has a line per packet or flow."},
		{"log.level", list(logLevels), "info", "The least severe messages that are logged."},
		{"log.format", list(logFormats), FormatText, "How they are written."},
	}
}
