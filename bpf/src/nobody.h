/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * MACs that nobody has. The kernel hands no packet to a device without a MAC for its next hop. Where nobody knows one
 * the loader enters one of these, so that replies are built and come by here:
 *
 * - for a gateway that has never answered (loader/gateways/hold.go);
 * - for the next hop that stands for all peers of an interface of which no gateway is known
 *   (loader/fallback/boundroutes.go).
 *
 * What belongs to a flow goes its way. No frame leaves with such a MAC: nobody would take it, and bridges would show it
 * to everybody. Only the kernel's own question for the gateway is shown to everybody.
 */
#pragma once

#include "pmtudisc.h"
#include "parse.h"

/* 02:72:65:70:6c:79 and :7a, "reply" and the next: locally administered, unicast, and the same on every host. */
#define NOBODY bpf_htonl(0x02726570)
#define SILENT_GATEWAY bpf_htons(0x6c79)
#define ANY_PEER bpf_htons(0x6c7a)

static inline bool is_nobody(const __u8 *mac)
{
	__be16 rest = *(const __be16 *)(mac + 4);

	return *(const __be32 *)mac == NOBODY && (rest == SILENT_GATEWAY || rest == ANY_PEER);
}

/*
 * What no flow covers is sent as by an interface without any route: the kernel takes the destination for a neighbour
 * and asks for its MAC (net/ipv4/route.c, ip_route_output_key_hash_rcu()). Somebody may answer for it.
 */
static __noinline int send_to_neighbour(struct __sk_buff *skb)
{
	struct bpf_redir_neigh to = { .nh_family = FAMILY_IPV4 };

	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &to.ipv4_nh, sizeof(to.ipv4_nh)))
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(skb->ifindex, &to, sizeof(to), 0);
}

/* A question of neighbour discovery as the kernel asks it (RFC 4861, 4.3), without extension headers. */
struct solicitation {
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__sum16 check;
};

#define NEIGHBOUR_SOLICITATION 135
#define CHECK_OFFSET (ETH_HLEN + offsetof(struct solicitation, check))
#define DESTINATION_OFFSET (ETH_HLEN + offsetof(struct solicitation, ip.daddr))

/* Has a neighbour solicitation go to the target's solicited-node group (RFC 4291, 2.7.1; its MAC: RFC 2464, 7). */
static inline int solicit_group(struct __sk_buff *skb)
{
	struct in6_addr group = { .in6_u.u6_addr8 = { 0xff, 0x02, [11] = 1, 0xff } };
	__u8 mac[ETH_ALEN] = { 0x33, 0x33, 0xff };
	struct solicitation question;
	__s64 difference;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &question, sizeof(question)) ||
	    question.ip.nexthdr != IPPROTO_ICMPV6 || question.type != NEIGHBOUR_SOLICITATION)
		return TC_ACT_SHOT;
	__builtin_memcpy(&group.in6_u.u6_addr8[13], &question.ip.daddr.in6_u.u6_addr8[13], 3);
	__builtin_memcpy(&mac[3], &question.ip.daddr.in6_u.u6_addr8[13], 3);
	difference = bpf_csum_diff((__be32 *)&question.ip.daddr, sizeof(group), (__be32 *)&group, sizeof(group), 0);
	if (difference < 0 || bpf_l4_csum_replace(skb, CHECK_OFFSET, 0, difference, BPF_F_PSEUDO_HDR) ||
	    bpf_skb_store_bytes(skb, DESTINATION_OFFSET, &group, sizeof(group), 0) ||
	    bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0))
		return TC_ACT_SHOT;
	return PASS;
}

/*
 * The kernel takes the MAC that nobody has for the one to be checked, and asks by unicast whether the gateway still has
 * it. Everybody is asked instead, so that no setting of the host needs to be changed. Any ARP goes that way. Returns
 * TC_ACT_SHOT for everything else.
 */
static __noinline int ask_everybody(struct __sk_buff *skb)
{
	__u8 broadcast[ETH_ALEN] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return solicit_group(skb);
	if (skb->protocol != bpf_htons(ETH_P_ARP) || bpf_skb_store_bytes(skb, 0, broadcast, sizeof(broadcast), 0))
		return TC_ACT_SHOT;
	return PASS;
}

/* The end of a frame that is for nobody. What the host has begun by it is refused, as where it has no route. */
static inline int end_at_nobody(struct __sk_buff *skb, const struct packet *packet)
{
	bool any_peer = *(const __be16 *)(packet->mac + 4) == ANY_PEER;

	if (any_peer && skb->protocol == bpf_htons(ETH_P_IP))
		return send_to_neighbour(skb);
	if (!any_peer && ask_everybody(skb) == PASS)
		return PASS;
	if (have_tail_calls)
		bpf_tail_call(skb, &tails, TAIL_NOBODY);
	return TC_ACT_SHOT;
}
