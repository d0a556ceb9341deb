/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the host starts while it has no way out. The fallback route is there so
 * that the kernel goes on building replies; without it everything else would get
 * ENETUNREACH at once, and must not hang because of it. So the sender is answered
 * in the name of the destination, by way of the ingress of the device:
 *
 * - a SYN by a RST. An ICMP error made here comes while connect() holds the lock
 *   of its socket, and fails it only with the first retransmission, a second later
 *   (kernel: tcp_v4_err() in net/ipv4/tcp_ipv4.c); a segment waits for the lock.
 * - an echo request, and what is neither TCP nor ICMP, by the ICMP error that fails
 *   a connected socket at once (icmp_err_convert in net/ipv4/icmp.c,
 *   icmpv6_err_convert() in net/ipv6/icmp.c).
 * - other segments not at all: their connections wait for the route to come back,
 *   as they do without any route.
 *
 * Where data are written, the packet is one that would be dropped otherwise.
 */
#pragma once

#include "mtu.h"

#define NETWORK_UNKNOWN 6     /* RFC 1122, 3.2.2.1 */
#define PORT_UNREACHABLE_V6 4 /* RFC 4443, 3.1 */
#define LOCAL_HOPS 255        /* of what never leaves the host; RFC 5082 takes no less */
#define QUOTED_PAYLOAD 8      /* what errors quote at least: RFC 792 */

#define TCP_HEADER_WORDS (TCP_HEADER / 4)

struct reset {
	__be32 tcp[TCP_HEADER_WORDS];
};

struct reset_v4 {
	struct iphdr ip;
	struct reset reset;
};

struct reset_v6 {
	struct ipv6hdr ip;
	struct reset reset;
};

struct unreachable {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 unused;
};

struct unreachable_v4 {
	struct iphdr ip;
	struct unreachable error;
	struct iphdr quoted;
	__u8 payload[QUOTED_PAYLOAD];
};

struct unreachable_v6 {
	struct ipv6hdr ip;
	struct unreachable error;
	struct ipv6hdr quoted;
	__u8 payload[QUOTED_PAYLOAD];
};

/* Puts other bytes behind the Ethernet header, which leads to the device itself from now on. */
static __always_inline bool become(struct __sk_buff *skb, void *bytes, __u32 size)
{
	__u8 mac[ETH_ALEN];

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), mac, sizeof(mac)) ||
	    !unshare(skb) || bpf_skb_change_tail(skb, ETH_HLEN + size, 0))
		return false;
	/* The packet is linear and not shared now: what is written to it is written. */
	bpf_skb_store_bytes(skb, ETH_HLEN, bytes, size, 0);
	bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), mac, sizeof(mac), 0);
	return true;
}

/* Whether the TCP header at the offset is that of a SYN; writes the RST for it, without a checksum. */
static __always_inline bool answer_syn(const struct __sk_buff *skb, __u32 offset, struct reset *reset)
{
	__be32 *tcp = reset->tcp;

	if (bpf_skb_load_bytes(skb, offset, tcp, TCP_HEADER) ||
	    (((__u8 *)tcp)[13] & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) != TCP_SYN)
		return false;
	tcp[0] = tcp[0] << 16 | tcp[0] >> 16; /* the ports */
	tcp[2] = bpf_htonl(bpf_ntohl(tcp[1]) + 1);
	tcp[1] = 0;
	tcp[3] = bpf_htonl(TCP_HEADER_WORDS << 28 | (TCP_RST | TCP_ACK) << 16);
	tcp[4] = 0;
	return true;
}

static __always_inline void set_reset_checksum(struct reset *reset, __u64 pseudo_header)
{
	((__be16 *)reset->tcp)[TCP_CHECKSUM / 2] = fold(sum(reset->tcp, TCP_HEADER, pseudo_header));
}

static __always_inline bool refuse_v4(struct __sk_buff *skb, const struct iphdr *from)
{
	struct reset_v4 answer;

	if (!answer_syn(skb, ETH_HLEN + sizeof(*from), &answer.reset))
		return false;
	compose_v4(&answer.ip, from->daddr, from->saddr, IPPROTO_TCP, TCP_HEADER, LOCAL_HOPS);
	set_reset_checksum(&answer.reset, pseudo_header_v4(&answer.ip, IPPROTO_TCP, TCP_HEADER));
	return become(skb, &answer, sizeof(answer));
}

static __always_inline bool refuse_v6(struct __sk_buff *skb, const struct ipv6hdr *from)
{
	struct reset_v6 answer;

	if (!answer_syn(skb, ETH_HLEN + sizeof(*from), &answer.reset))
		return false;
	compose_v6(&answer.ip, &from->daddr, &from->saddr, IPPROTO_TCP, TCP_HEADER, LOCAL_HOPS);
	set_reset_checksum(&answer.reset, pseudo_header_v6(&answer.ip, IPPROTO_TCP, TCP_HEADER));
	return become(skb, &answer, sizeof(answer));
}

/* Whether an ICMP error about such a packet is due: none about ICMP other than a question. */
static __always_inline bool deserves_error(const struct __sk_buff *skb, __u32 offset, __u8 protocol,
					   __u8 icmp, __u8 request)
{
	__u8 type;

	if (protocol != icmp)
		return true;
	return !bpf_skb_load_bytes(skb, offset, &type, sizeof(type)) && type == request;
}

static __always_inline bool tell_v4(struct __sk_buff *skb, const struct iphdr *from)
{
	struct unreachable_v4 answer = {};
	__u32 length = sizeof(answer) - sizeof(answer.ip);

	if (!deserves_error(skb, ETH_HLEN + sizeof(*from), from->protocol, IPPROTO_ICMP, ECHO_REQUEST) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &answer.quoted, sizeof(*from) + QUOTED_PAYLOAD))
		return false;
	compose_v4(&answer.ip, from->daddr, from->saddr, IPPROTO_ICMP, length, LOCAL_HOPS);
	answer.error.type = UNREACHABLE;
	answer.error.code = NETWORK_UNKNOWN;
	answer.error.checksum = fold(sum(&answer.error, length, 0));
	return become(skb, &answer, sizeof(answer));
}

static __always_inline bool tell_v6(struct __sk_buff *skb, const struct ipv6hdr *from)
{
	struct unreachable_v6 answer = {};
	__u32 length = sizeof(answer) - sizeof(answer.ip);

	if (!deserves_error(skb, ETH_HLEN + sizeof(*from), from->nexthdr, IPPROTO_ICMPV6, ECHO_REQUEST_V6) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &answer.quoted, sizeof(*from) + QUOTED_PAYLOAD))
		return false;
	compose_v6(&answer.ip, &from->daddr, &from->saddr, IPPROTO_ICMPV6, length, LOCAL_HOPS);
	answer.error.type = UNREACHABLE_V6;
	answer.error.code = PORT_UNREACHABLE_V6;
	answer.error.checksum = fold(sum(&answer.error, length,
					 pseudo_header_v6(&answer.ip, IPPROTO_ICMPV6, length)));
	return become(skb, &answer, sizeof(answer));
}

/* Reads the header, which has to be a plain one, of a packet between ordinary addresses. */
static __always_inline bool read_v4(const struct __sk_buff *skb, struct iphdr *ip)
{
	return !bpf_skb_load_bytes(skb, ETH_HLEN, ip, sizeof(*ip)) && *(__u8 *)ip == 0x45 &&
	       !(ip->frag_off & bpf_htons(FRAGMENT_OFFSET)) && v4_is_ordinary(ip->saddr) &&
	       v4_is_ordinary(ip->daddr);
}

static __always_inline bool read_v6(const struct __sk_buff *skb, struct ipv6hdr *ip)
{
	return !bpf_skb_load_bytes(skb, ETH_HLEN, ip, sizeof(*ip)) && ip_version(ip) == 6 &&
	       !is_extension_header(ip->nexthdr) && v6_is_ordinary(ip->saddr.in6_u.u6_addr32) &&
	       v6_is_ordinary(ip->daddr.in6_u.u6_addr32);
}

/* Turns a SYN into the RST that answers it; false where it is none and stays what it is. */
static __noinline bool become_reset(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		return read_v4(skb, &ip) && ip.protocol == IPPROTO_TCP && refuse_v4(skb, &ip);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		return read_v6(skb, &ip) && ip.nexthdr == IPPROTO_TCP && refuse_v6(skb, &ip);
	}
	return false;
}

/* The same with an ICMP error, for what is not TCP. */
static __noinline bool become_unreachable(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		return read_v4(skb, &ip) && ip.protocol != IPPROTO_TCP && tell_v4(skb, &ip);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		return read_v6(skb, &ip) && ip.nexthdr != IPPROTO_TCP && tell_v6(skb, &ip);
	}
	return false;
}

static __always_inline int end_of_fallback(struct __sk_buff *skb)
{
	count_event(skb->protocol == bpf_htons(ETH_P_IP) ? EVENT_FALLBACK_DROPPED_V4
							  : EVENT_FALLBACK_DROPPED_V6);
	if (become_reset(skb) || become_unreachable(skb))
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return TC_ACT_SHOT;
}

/* Whether the frame goes to a gateway whose entry is held. Of nobody's word for a while, it is not. */
static __always_inline bool is_held(const struct __sk_buff *skb)
{
	struct gateway_mac key = {
		.ifindex = skb->ifindex,
		.family = skb->protocol == bpf_htons(ETH_P_IP) ? 4 : 6,
	};
	__u32 *until;

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_dest), key.mac, sizeof(key.mac)))
		return false;
	until = bpf_map_lookup_elem(&held_gateways, &key);
	return until && is_ahead(*until, now());
}

/*
 * A held entry lets the kernel send to a gateway that does not answer: without it,
 * connect() would fail. Anything but the beginning of a connection passes; replies
 * to other interfaces were moved before.
 */
static __always_inline int refuse_behind_held(struct __sk_buff *skb)
{
	if (is_held(skb) && become_reset(skb))
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return PASS;
}
