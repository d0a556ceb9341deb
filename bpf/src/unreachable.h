/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the host starts while it has no way out. The fallback route is there so that the kernel goes on building
 * replies; without it everything else would get ENETUNREACH at once, and must not hang because of it. So the sender is
 * answered in the name of the destination, by way of the ingress of the device:
 *
 * - a SYN by a RST. An ICMP error made here comes while connect() holds the lock of its socket, and fails it only with
 *   the first retransmission, a second later (kernel: tcp_v4_err() in net/ipv4/tcp_ipv4.c); a segment waits for the
 *   lock.
 * - an echo request, and what is neither TCP nor ICMP, by the ICMP error that fails a connected socket at once
 *   (icmp_err_convert in net/ipv4/icmp.c, icmpv6_err_convert() in net/ipv6/icmp.c). If sendmsg(2) failed instead, ping
 *   would go on to wait for an answer.
 * - other segments not at all: their connections wait for the route to come back, as they do without any route.
 *
 * Where data are written, the packet is one that would be dropped otherwise.
 */
#pragma once

#include "mtu.h"

#define NETWORK_UNKNOWN 6     /* RFC 1122, 3.2.2.1 */
#define PORT_UNREACHABLE_V6 4 /* RFC 4443, 3.1 */
#define LOCAL_HOPS 255        /* of what never leaves the host; RFC 5082 takes no less */
#define QUOTED_PAYLOAD 8      /* what errors quote at least: RFC 792 */

/* Puts the answer behind the Ethernet header, which leads to the device itself from now on. */
static inline bool become(struct __sk_buff *skb, struct answer *answer, bool v4, __u32 length)
{
	__u8 mac[ETH_ALEN];

	length += ip_size(v4);
	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), mac, sizeof(mac)) ||
	    !unshare(skb) || bpf_skb_change_tail(skb, ETH_HLEN + length, 0))
		return false;
	/* The packet is linear and not shared now: what is written to it is written. */
	bpf_skb_store_bytes(skb, ETH_HLEN, beginning(answer, v4), length, 0);
	bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), mac, sizeof(mac), 0);
	return true;
}

#define UNREADABLE (-1)

/* Quotes a plain IP header between ordinary addresses. Returns what protocol it carries, else UNREADABLE. */
static inline int quote_header(struct __sk_buff *skb, struct answer *answer, bool v4)
{
	const struct ipv6hdr *ip6 = (const struct ipv6hdr *)answer->quote;
	const struct iphdr *ip4 = (const struct iphdr *)answer->quote;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, answer->quote, ip_size(v4)))
		return UNREADABLE;
	if (v4)
		return answer->quote[0] == 0x45 && !(ip4->frag_off & bpf_htons(FRAGMENT_OFFSET)) &&
		       v4_is_ordinary(ip4->saddr) && v4_is_ordinary(ip4->daddr) ? ip4->protocol : UNREADABLE;
	return ip_version(ip6) == 6 && !is_extension_header(ip6->nexthdr) &&
	       v6_is_ordinary(ip6->saddr.in6_u.u6_addr32) &&
	       v6_is_ordinary(ip6->daddr.in6_u.u6_addr32) ? ip6->nexthdr : UNREADABLE;
}

/* Turns a SYN into the RST that answers it; false where it is none and stays what it is. */
static inline bool become_reset_of(struct __sk_buff *skb, bool v4)
{
	struct scratch *scratch = get_scratch();
	struct answer *answer;
	__be32 *tcp;

	if (!scratch)
		return false;
	answer = &scratch->answer;
	if (quote_header(skb, answer, v4) != IPPROTO_TCP)
		return false;
	write_ip(answer, v4, NULL, IPPROTO_TCP, TCP_HEADER, LOCAL_HOPS);
	tcp = (__be32 *)&answer->type;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + ip_size(v4), tcp, TCP_HEADER) ||
	    (((__u8 *)tcp)[13] & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) != TCP_SYN)
		return false;
	tcp[0] = tcp[0] << 16 | tcp[0] >> 16; /* the ports */
	tcp[2] = bpf_htonl(bpf_ntohl(tcp[1]) + 1);
	tcp[1] = 0;
	tcp[3] = bpf_htonl((TCP_HEADER / 4) << 28 | (TCP_RST | TCP_ACK) << 16);
	tcp[4] = 0;
	((__be16 *)tcp)[TCP_CHECKSUM / 2] =
		fold(sum(tcp, TCP_HEADER, pseudo_header(answer, v4, IPPROTO_TCP, TCP_HEADER)));
	return become(skb, answer, v4, TCP_HEADER);
}

__noinline int become_reset(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return become_reset_of(skb, true);
	return skb->protocol == bpf_htons(ETH_P_IPV6) && become_reset_of(skb, false);
}

/* Turns what is not TCP into the ICMP error about it. There is none about ICMP other than a question. */
static inline bool become_unreachable_of(struct __sk_buff *skb, bool v4)
{
	__u32 quoted = ip_size(v4) + QUOTED_PAYLOAD;
	struct scratch *scratch = get_scratch();
	struct answer *answer;
	int protocol;

	if (!scratch)
		return false;
	answer = &scratch->answer;
	protocol = quote_header(skb, answer, v4);
	if (protocol == UNREADABLE || protocol == IPPROTO_TCP ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, answer->quote, quoted))
		return false;
	if (protocol == (v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6) &&
	    answer->quote[ip_size(v4)] != (v4 ? ECHO_REQUEST : ECHO_REQUEST_V6))
		return false;
	answer->mtu = 0;
	write_error(answer, v4, NULL, v4 ? UNREACHABLE : UNREACHABLE_V6, v4 ? NETWORK_UNKNOWN : PORT_UNREACHABLE_V6,
		    quoted, LOCAL_HOPS);
	return become(skb, answer, v4, ERROR_HEADER + quoted);
}

__noinline int become_unreachable(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return become_unreachable_of(skb, true);
	return skb->protocol == bpf_htons(ETH_P_IPV6) && become_unreachable_of(skb, false);
}

/* After replypath_egress at the device of the fallback route: ends what was not moved to its flow's interface. */
SEC("tc")
int replypath_fallback(struct __sk_buff *skb)
{
	count_untraced(skb->protocol == bpf_htons(ETH_P_IP) ? EVENT_FALLBACK_DROPPED_V4
							     : EVENT_FALLBACK_DROPPED_V6);
	if (become_reset(skb) || become_unreachable(skb))
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return TC_ACT_SHOT;
}

/* Whether the frame goes to a gateway whose entry is held. */
static inline bool is_held(const struct __sk_buff *skb)
{
	struct gateway_mac key = {
		.ifindex = skb->ifindex,
		.family = skb->protocol == bpf_htons(ETH_P_IP) ? 4 : 6,
	};

	return !bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_dest), key.mac, sizeof(key.mac)) &&
	       is_held_gateway(&key);
}

/*
 * After replypath_egress. A held entry lets the kernel send to a gateway that does not answer: without it, connect()
 * would fail. Anything but the beginning of a connection passes; replies to other interfaces were moved before.
 */
SEC("tc")
int replypath_held(struct __sk_buff *skb)
{
	if (is_held(skb) && become_reset(skb))
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return PASS;
}
