/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * MACs that nobody has. The kernel hands no packet to a device without a MAC for its next hop. Where
 * nobody knows one the loader enters one of these, so that replies are built and come by here:
 *
 * - for a gateway that has never answered (loader/hold.go);
 * - for the next hop that stands for all peers of an interface of which no gateway is known
 *   (loader/boundroutes.go).
 *
 * What belongs to a flow goes its way. No frame leaves with such a MAC: nobody would take it, and
 * bridges would show it to everybody.
 */
#pragma once

#include "deaf.h"
#include "parse.h"

/* 02:72:65:70:6c:79 and :7a, "reply" and the next: locally administered, unicast, and the same on every host. */
#define NOBODY bpf_htonl(0x02726570)
#define SILENT_GATEWAY bpf_htons(0x6c79)
#define ANY_PEER bpf_htons(0x6c7a)

static __always_inline bool is_nobody(const __u8 *mac)
{
	__be16 rest = *(const __be16 *)(mac + 4);

	return *(const __be32 *)mac == NOBODY && (rest == SILENT_GATEWAY || rest == ANY_PEER);
}

/*
 * What no flow covers is sent as by an interface without any route: the kernel takes the destination for
 * a neighbour and asks for its MAC (net/ipv4/route.c, ip_route_output_key_hash_rcu()). Somebody may answer for it.
 */
static __noinline int send_to_neighbour(struct __sk_buff *skb)
{
	struct bpf_redir_neigh to = { .nh_family = FAMILY_IPV4 };

	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &to.ipv4_nh, sizeof(to.ipv4_nh)))
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(skb->ifindex, &to, sizeof(to), 0);
}

/* The end of a frame that is for nobody. What the host has begun by it is refused, as where it has no route. */
static __always_inline int end_at_nobody(struct __sk_buff *skb, const struct packet *packet)
{
	if (skb->protocol == bpf_htons(ETH_P_IP) && *(const __be16 *)(packet->mac + 4) == ANY_PEER)
		return send_to_neighbour(skb);
	if (have_tail_calls)
		bpf_tail_call(skb, &nobody, 0);
	return TC_ACT_SHOT;
}
