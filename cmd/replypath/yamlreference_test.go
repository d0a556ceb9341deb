// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"replypath/loader/config"
	"replypath/test/await"
)

// yamlKey describes a key of the configuration file for a reader.
type yamlKey struct {
	Path    string // "interfaces[].next_hop"
	Values  string
	Default string
	Text    string // sentences, with an empty line between paragraphs
}

// yamlReference describes every key in the order of the file.
func yamlReference() []yamlKey {
	return slices.Concat(interfaceKeys(), policyKeys(), hostKeys(), reportKeys())
}

func interfaceKeys() []yamlKey {
	return []yamlKey{
		{"interfaces", "list of maps", "NICs, and every interface with a global unicast address, with the exceptions below",
			"The managed interfaces: those that replypath learns from and sends to. One that does not exist yet is managed as soon as it appears. " +
				"Until then **replypath_interface_attached** is 0 for a name without a glob, and **/healthz** answers 503.\n\n" +
				"By default these are left out: loopback, dummy, replypath's own, and *ignore_interfaces*. " +
				"So are bridges with several ports, all veth or tap, unless a gateway is reached by them. " +
				"NICs, bonds, VLANs, macvlan and bridges need no address. " +
				"A port that has a master is left out too, as the master counts. The ports of a VRF do count."},
		{"interfaces[].name", "name, alternative name or glob", "none: required",
			"Which interface the map is for. If several maps match one interface, its name goes before an alternative name, and that before a glob. " +
				"Of globs the first holds. " +
				"An address label such as eth0:1 is refused: use the name of the interface."},
		{"interfaces[].mode", oneOf("interfaces[].mode"), "*mode*", "Overrides *mode* on this interface."},
		{"interfaces[].host_model", oneOf("interfaces[].host_model"), "*host_model*", "Overrides *host_model* for what has an address of this interface."},
		{"interfaces[].next_hop", oneOf("interfaces[].next_hop"), string(config.NextHopAuto),
			"Which MAC address a moved reply gets. **gateway**: that of the interface's gateway, as the kernel knows it. " +
				"If no gateway has a route to the peer, and the flow did not arrive through one, the reply goes as routed.\n\n" +
				"**last-hop**: the source MAC of the flow's inbound frames. **auto**: the inbound MAC for peers that are on-link. " +
				"For others it is the gateway that the flow arrived through, or the only one if a route by it leads to the peer. " +
				"If there is no such gateway, it is the inbound MAC.\n\nInterfaces without an Ethernet header (tun, WireGuard) need none. " +
				"There last-hop is refused if the interface exists, and served as auto if it appears later."},
		{"interfaces[].gateways", "list of addresses", "found in the routing tables",
			"The gateways of the interface. They replace those of their family that the routing tables name, and take packets to everywhere."},
		{"ignore_interfaces", "list of names and globs", `["docker*", "br-????????????", "virbr*", "cni*", "flannel*", "cilium*", "kube*", "cali*", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "wg-v6.cali", "tailscale*", "podman*", "lxdbr*", "incusbr*"]`,
			"What is left alone when interfaces are found rather than listed. It also excludes what a glob under *interfaces* would match by accident. " +
				"Of the default, **br-????????????** matches the names of Docker's bridges only: twelve hexadecimal digits."},
	}
}

func policyKeys() []yamlKey {
	return []yamlKey{
		{"mode", oneOf("mode"), string(config.ModeEnforce), "**enforce** sends replies by the interface that the request arrived by. **observe** counts those that would be moved, and changes nothing of the host."},
		{"follow", oneOf("follow"), string(config.FollowValidated),
			"What happens when a flow starts to arrive by another interface or from another MAC. **pinned**: it stays with its first packet. " +
				"**latest**: it goes with its last packet. **validated**: TCP moves when the segment is plausible to its socket.\n\n" +
				"A flow without a connection moves when its present interface or next hop is down. " +
				"It also moves when its packets arrive by one other way alone, three times and for ten seconds."},
		{"scope", oneOf("scope"), string(config.ScopeLocal), "**local**: flows to addresses of this host. **all**: forwarded flows too."},
		{"host_model", oneOf("host_model"), string(config.HostModelWeak),
			"By which interface leaves what this host originates. That is what it sends or forwards with an own address as source, and what is no reply of a recorded flow. " +
				"**weak**: as the kernel routes it. **strong**: by the interface that has the address (RFC 1122, 3.3.4.2).\n\n" +
				"It goes to the interface's gateway, or to the peer itself if that is on the interface's network. Without a usable gateway it goes as routed. " +
				"Of several gateways a route names the one for the peer. Else it is the first that answers.\n\n" +
				"An address that several interfaces have is left alone, and so is one that only lo or a dummy device has. " +
				"The same holds for sockets that are bound to a device, and for what *exclude* matches."},
		{"related", "true, false", "true",
			"What this host originates goes as the answers to its peer go, if the peer comes to the source address by its interface. " +
				"So do data of TFTP and active FTP, and answers of SIP. What it opens to anybody else goes as *host_model* has it."},
		{"addresses", "list of addresses and networks, at most 1024", "none",
			"Addresses that this host serves although no interface has them, such as those of a load balancer. " +
				"IPv4 networks have at least /8, IPv6 networks at least /32.\n\n" +
				"Where rules of nftables or iptables-nft translate packets to an address (DNAT, redirect, TPROXY), it need not be listed. " +
				"The rule itself has to name the address, or a set, a map or another chain that leads to the rule."},
		{"loopback_addresses", oneOf("loopback_addresses"), string(config.LoopbackKernel),
			"Replies from an address that only lo or a dummy device has. **kernel**: they go as routed, as LVS direct routing needs. " +
				"**symmetric**: they are treated like those of any own address, as anycast hosts need."},
		{"exclude", fmt.Sprintf("list of networks, addresses and maps, at most %d", config.MaxExclusions), "none",
			"What is never recorded and never moved. A network or an address is that of a peer. A map matches when all that it names matches."},
		{"exclude[].peer", "network or address", "any", "The address of the peer."},
		{"exclude[].self", "network or address", "any", "The own address."},
		{"exclude[].protocol", "name or number", "any", "As in *protocols*."},
		{"exclude[].self_port", "1 to 65535", "any", "The own port of TCP, UDP and SCTP."},
		{"protocols", "list of names and numbers", "[tcp, udp, icmp, icmpv6, sctp]",
			"The IP protocols that are served. Flows of protocols other than these five (esp, gre, ipip, vrrp, a number) differ by their two addresses only."},
	}
}

func hostKeys() []yamlKey {
	return []yamlKey{
		{"flow_table", "map", "", "The size of the tables in the kernel."},
		{"flow_table.max_entries", fmt.Sprintf("%d to %d", config.MinEntries, config.MaxEntries), "262144",
			"Entries of the largest table, raised to a power of two; the others are fixed fractions of it. A full table forgets what was quiet longest. What ended or never became a conversation gives way first. " +
				"The memory, some 210 bytes an entry, is allocated at the start."},
		{"fallback_route", oneOf("fallback_route"), "true", "Replies are still built when the default route is gone. It needs an interface that enforces."},
		{"manage_rp_filter", oneOf("manage_rp_filter"), "true",
			"Strict rp_filter (1) becomes loose (2) on managed interfaces that enforce. This is logged and shown by **replypath status**. **replypath detach** restores it."},
		{"repair_udp_source", oneOf("repair_udp_source"), string(config.RepairAuto),
			"A UDP socket that is bound to no address answers from the address that the request was sent to. " +
				"**auto**: as soon as a socket needs it, since it costs every unconnected send a few percent. It needs kernel 5.14."},
	}
}

func reportKeys() []yamlKey {
	return []yamlKey{
		{"metrics", "map", "", "The Prometheus metrics."},
		{"metrics.listen", "host:port", `"127.0.0.1:9945"`, `Where they are served. "" switches them off; without a host they are served on all addresses.`},
		{"metrics.web_config_file", "absolute path", `""`,
			"A web configuration file of Prometheus' exporter-toolkit, for TLS and basic authentication."},
		{"log", "map", "", "The log on standard error. It never has a line per packet or flow."},
		{"log.level", oneOf("log.level"), "info", "The least severe messages that are logged."},
		{"log.format", oneOf("log.format"), config.FormatText, "How they are written."},
	}
}

// oneOf returns the words that a key takes, as Parse offers them for something else.
func oneOf(path string) string {
	_, err := config.Parse("", []byte(yamlOf(path, "[]")))
	wrong, _, _ := strings.Cut(err.Error(), "\n") // an interface lacks its name as well
	_, words, _ := strings.Cut(wrong, " is not one of ")
	return words
}

// yamlOf is a file that sets a key alone.
func yamlOf(path, value string) string {
	parent, key, nested := strings.Cut(path, ".")
	if !nested {
		return path + ": " + value
	}
	if list, is := strings.CutSuffix(parent, "[]"); is {
		return fmt.Sprintf("%s: [{%s: %s}]", list, key, value)
	}
	return fmt.Sprintf("%s: {%s: %s}", parent, key, value)
}

// knownKeys collects the keys that Parse takes from what it offers in place of an unknown one.
func knownKeys(t *testing.T, prefix string) []string {
	t.Helper()
	_, err := config.Parse("", []byte(yamlOf(prefix+"there-is-no-such-key", "1")))
	if err == nil {
		t.Fatalf("an unknown key below %q is accepted", prefix)
	}
	unknown, _, _ := strings.Cut(err.Error(), "\n") // an interface lacks its name as well
	_, names, found := strings.Cut(unknown, "allowed here: ")
	if !found {
		t.Fatalf("no keys in %q", err)
	}
	var paths []string
	for _, name := range strings.Split(names, ", ") {
		paths = append(paths, prefix+name)
	}
	return paths
}

func TestReferenceIsWhatParseTakes(t *testing.T) {
	var parsed, described []string
	for _, prefix := range []string{"", "interfaces[].", "exclude[].", "flow_table.", "metrics.", "log."} {
		parsed = append(parsed, knownKeys(t, prefix)...)
	}
	for _, key := range yamlReference() {
		described = append(described, key.Path)
		if key.Values == "" || key.Text == "" {
			t.Errorf("%s is not described", key.Path)
		}
	}
	slices.Sort(parsed)
	slices.Sort(described)
	await.Same(t, "keys that are described", parsed, described)
}
