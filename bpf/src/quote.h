/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors that we send go back the way that the packet came which they quote (RFC 792; RFC 4443, 3). */
#pragma once

#include "table.h"

/* Fills in the addresses of the quoted packet, and where its transport header is. */
static inline bool quoted_v4(const struct __sk_buff *skb, struct packet *quote)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, quote->offset, &ip, sizeof(ip)) || ip_version(&ip) != 4 ||
	    ip.frag_off & bpf_htons(FRAGMENT_OFFSET))
		return false;
	quote->protocol = ip.protocol;
	quote->offset += (*(const __u8 *)&ip & 0xf) * 4;
	address_from_v4(quote->tuple.peer, ip.saddr);
	address_from_v4(quote->tuple.self, ip.daddr);
	return true;
}

static inline bool quoted_v6(struct __sk_buff *skb, struct packet *quote)
{
	enum parsed result = PARSED;
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, quote->offset, &ip, sizeof(ip)) || ip_version(&ip) != 6)
		return false;
	quote->protocol = ip.nexthdr;
	quote->offset += sizeof(ip);
	address_from_v6(quote->tuple.peer, &ip.saddr);
	address_from_v6(quote->tuple.self, &ip.daddr);
	if (is_extension_header(ip.nexthdr))
		result = follow_extension_headers(skb, quote, skb->len);
	return result == PARSED;
}

/* Ports or echo identifier, in the eight bytes that every error quotes. Padding may follow the error's end. */
static inline bool quoted_ports(const struct __sk_buff *skb, struct packet *quote, __u32 end)
{
	__u32 word[2];

	switch (quote->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (quote->offset + sizeof(word) > end ||
		    bpf_skb_load_bytes(skb, quote->offset, word, sizeof(word)))
			return false;
		if (quote->protocol != IPPROTO_ICMP && quote->protocol != IPPROTO_ICMPV6)
			set_ports(quote, INBOUND, word[0]);
		else if (is_request(*(__u8 *)word, quote->family) && !((__u8 *)word)[1]) /* the code */
			set_echo(quote, *(__be16 *)&word[1]);
		else
			return false;
		return true;
	default:
		set_ports(quote, INBOUND, 0);
		return true;
	}
}

/* Reads what an ICMP error quotes, from this offset to the end of the error, into the scratch packet. */
__noinline int read_quote(struct __sk_buff *skb, __u32 offset, __u32 end, __u32 family)
{
	struct scratch *to = get_scratch();
	struct packet *quote;

	if (!to)
		return false;
	quote = &to->packet;
	quote->family = family;
	quote->offset = offset;
	if (!(family == 4 ? quoted_v4(skb, quote) : quoted_v6(skb, quote)) ||
	    !quoted_ports(skb, quote, end))
		return false;
	quote->digest = digest(&quote->tuple, family);
	return true;
}

/* The flow that an error of ours is about, if the error goes to its peer. */
static __noinline struct flow *quoted_flow(struct __sk_buff *skb, struct packet *packet, enum table *table)
{
	const struct scratch *from = get_scratch();
	struct flow *flow;

	if (!from || !read_quote(skb, packet->offset + sizeof(struct echo),
				 packet->offset + packet->length, packet->family))
		return NULL;
	*table = TABLE_CONNECTIONLESS;
	if (from->packet.protocol == IPPROTO_TCP)
		flow = find_tcp(&from->packet, table, false);
	else
		flow = find_live(&from->packet, TABLE_CONNECTIONLESS);
	if (!flow || !address_equal(flow->tuple.peer, packet->tuple.peer))
		return NULL;
	packet->digest = from->packet.digest;
	return flow;
}
