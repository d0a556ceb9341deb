package metrics

// Reason is a value of the label reason.
type Reason struct {
	Name    string
	Meaning string
}

var uncorrectedReasons = []Reason{
	{"link_down", "the interface of the flow is down, has no carrier or is gone"},
	{"no_next_hop", "no MAC is known to send to; with next_hop: gateway also: no gateway has a route to the peer, and the question came through none"},
	{"mtu", "the packet is larger than the interface of the flow takes and cannot be cut: the sender is told, once a second, and the rest goes as routed"},
	{"no_header_room", "the Ethernet header that the flow's interface needs cannot be put before a packet of one without: no memory, or more than 16 KiB in one packet"},
	{"observe", "the interface of the flow is only observed"},
	{"bound_device", "the socket is bound to a device, and is not moved off it"},
	{"rewrite_failed", "the kernel refused to rewrite the MAC addresses"},
}

var unparsedReasons = []Reason{
	{"truncated", "the packet ends within a header"},
	{"malformed", "a header contradicts itself or the packet"},
	{"extension_headers", "more IPv6 extension headers than are walked"},
	{"fragment", "not the first fragment of a packet: only that one has ports"},
	{"source_route", "a routing header says that the destination on the packet is not the last one"},
}

var ignoredReasons = []Reason{
	{"not_own", "not addressed to this host; of an address one packet in a second or so is counted, and every SYN"},
	{"source", "no flow with such addresses: unspecified, loopback, link-local, multicast, 255.255.255.255, or a peer that is this host"},
	{"loopback", "addressed to an address that only lo or a dummy device has (loopback_addresses: kernel)"},
	{"excluded", "excluded by the configuration"},
	{"protocol", "a protocol that the configuration does not list, or DHCP"},
	{"ipsec", "came out of an IPsec tunnel"},
	{"interface", "the interface is not managed any more"},
	{"mac", "the source MAC is that of no single station"},
	{"answer", "an answer to what this host had sent first"},
	{"handshake", "a TCP segment that should end a handshake and does not answer its SYN-ACK"},
	{"segment", "a TCP segment without an entry that no connected socket expects"},
	{"no_socket", "a TCP segment without an entry that no socket takes at all, counted once a minute or so for each pair of addresses and ports"},
}

var refusedReasons = []Reason{
	{"pinned", "follow: pinned keeps every flow where it began"},
	{"contested", "the packet gave no proof that the flow had moved"},
}
