/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The headers once more, for the few packets that need it: the verifier need not follow what parse() found. */
#pragma once

#include "parse.h"

#define TCP_DATA_OFFSET 12 /* offset of the field, RFC 9293, 3.1 */

/* Finds the transport header; the scratch memory says where. A later fragment has none. */
static inline bool find_transport(struct __sk_buff *skb, __u32 header, struct extension_headers *to)
{
	struct iphdr ip;
	__u8 protocol;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, header, &ip, sizeof(ip)) ||
		    ip.frag_off & bpf_htons(FRAGMENT_OFFSET))
			return false;
		to->offset = header + (*(const __u8 *)&ip & 0xf) * 4;
		to->protocol = ip.protocol;
		return true;
	}
	if (bpf_skb_load_bytes(skb, header + offsetof(struct ipv6hdr, nexthdr), &protocol,
			       sizeof(protocol)))
		return false;
	return skip_extension_headers(skb, header + sizeof(struct ipv6hdr), skb->len, protocol) == PARSED;
}

/* What every segment has before its payload, from the IP header on; 0 where that is unknown. */
static inline __u32 segment_headers(struct __sk_buff *skb, __u32 header)
{
	struct scratch *scratch = get_scratch();
	const struct extension_headers *transport;
	__u8 words;

	if (!scratch || !find_transport(skb, header, &scratch->headers))
		return 0;
	transport = &scratch->headers;
	if (transport->protocol == IPPROTO_UDP)
		return transport->offset - header + sizeof(struct udphdr);
	if (transport->protocol != IPPROTO_TCP ||
	    bpf_skb_load_bytes(skb, transport->offset + TCP_DATA_OFFSET, &words, sizeof(words)))
		return 0;
	return transport->offset - header + (words >> 4) * 4;
}
