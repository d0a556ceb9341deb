/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What leaves while a next hop is missing. The kernel hands no packet to a device without a MAC for that, so the loader
 * enters one that nobody has, and replies come by here (docs/design/gateways.md). What the host begins is answered in
 * the name of the destination (docs/design/fallback.md): a SYN by a RST, as an ICMP error comes while connect() holds
 * its socket, and fails it only a second later (net/ipv4/tcp_ipv4.c, tcp_v4_err()); a request by the error that fails a
 * connected socket at once (net/ipv4/icmp.c, icmp_err_convert). If sendmsg(2) failed instead, ping would go on to wait.
 */
#pragma once

#include "mtu.h"

/* 02:72:65:70:6c:79 and :7a, "reply" and the next: locally administered, unicast, and the same on every host. */
#define NOBODY bpf_htonl(0x02726570)
#define SILENT_GATEWAY bpf_htons(0x6c79)
#define ANY_PEER bpf_htons(0x6c7a)

static inline bool is_nobody(const __u8 *mac)
{
	__be16 rest = *(const __be16 *)(mac + 4);

	return *(const __be32 *)mac == NOBODY && (rest == SILENT_GATEWAY || rest == ANY_PEER);
}

/* Whether the kernel has found a way out for the packet, and not only one by which replies come to our programs. */
static __noinline bool leads_out(const struct __sk_buff *skb, const struct packet *packet)
{
	return interface_at(skb->ifindex) && !is_nobody(packet->mac);
}

/*
 * Redirects the frame to its peer, on the link of this device. What waits for its MAC is lost on another link: it is
 * sent by the next hop of its route (net/core/neighbour.c, neigh_update()). Without an address the helper would leak
 * the packet's route (commit 23f3770e1a53 mends it), and by IPv6 heed routes by other interfaces.
 */
static __noinline int redirect_to_peer(struct __sk_buff *skb, __u32 ifindex)
{
	bool v4 = skb->protocol == bpf_htons(ETH_P_IP);
	struct bpf_redir_neigh to = { .nh_family = v4 ? FAMILY_IPV4 : FAMILY_IPV6 };

	if (v4 ? bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &to.ipv4_nh, sizeof(to.ipv4_nh))
	       : bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), &to.ipv6_nh, sizeof(to.ipv6_nh)))
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(ifindex, &to, sizeof(to), 0);
}

/* A question of neighbour discovery as the kernel asks it (RFC 4861, 4.3), without extension headers. */
struct solicitation {
	struct ipv6hdr ip;
	struct icmp6hdr icmp;
};

#define NEIGHBOUR_SOLICITATION 135
#define CHECK_OFFSET (ETH_HLEN + offsetof(struct solicitation, icmp.icmp6_cksum))
#define DESTINATION_OFFSET (ETH_HLEN + offsetof(struct solicitation, ip.daddr))

/* Has a neighbour solicitation go to the target's solicited-node group (RFC 4291, 2.7.1; its MAC: RFC 2464, 7). */
static inline bool solicit_group(struct __sk_buff *skb)
{
	struct in6_addr group = { .in6_u.u6_addr8 = { 0xff, 0x02, [11] = 1, 0xff } };
	__u8 mac[ETH_ALEN] = { 0x33, 0x33, 0xff };
	struct solicitation question;
	__s64 difference;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &question, sizeof(question)) ||
	    question.ip.nexthdr != IPPROTO_ICMPV6 || question.icmp.icmp6_type != NEIGHBOUR_SOLICITATION)
		return false;
	__builtin_memcpy(&group.in6_u.u6_addr8[13], &question.ip.daddr.in6_u.u6_addr8[13], 3);
	__builtin_memcpy(&mac[3], &question.ip.daddr.in6_u.u6_addr8[13], 3);
	difference = bpf_csum_diff((__be32 *)&question.ip.daddr, sizeof(group), (__be32 *)&group, sizeof(group), 0);
	return difference >= 0 && !bpf_l4_csum_replace(skb, CHECK_OFFSET, 0, difference, BPF_F_PSEUDO_HDR) &&
	       !bpf_skb_store_bytes(skb, DESTINATION_OFFSET, &group, sizeof(group), 0) &&
	       !bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0);
}

/* The kernel asks the MAC of nobody whether the gateway has it still. Everybody is asked instead; any ARP goes so. */
static __noinline bool ask_everybody(struct __sk_buff *skb)
{
	__u8 broadcast[ETH_ALEN] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return solicit_group(skb);
	return skb->protocol == bpf_htons(ETH_P_ARP) && !bpf_skb_store_bytes(skb, 0, broadcast, sizeof(broadcast), 0);
}

/*
 * Whether a packet for nobody goes to its peer, as by an interface without any route: the kernel takes that for a
 * neighbour (net/ipv4/route.c, ip_route_output_key_hash_rcu()).
 */
static inline bool goes_to_neighbour(const struct __sk_buff *skb, const struct packet *packet)
{
	return skb->protocol == bpf_htons(ETH_P_IP) && *(const __be16 *)(packet->mac + 4) == ANY_PEER;
}

/* A frame for nobody: bridges would flood it. What the host has begun by it is refused, as where it has no route. */
static inline int end_at_nobody(struct __sk_buff *skb, const struct packet *packet)
{
	if (goes_to_neighbour(skb, packet))
		return redirect_to_peer(skb, skb->ifindex);
	if (*(const __be16 *)(packet->mac + 4) == SILENT_GATEWAY && ask_everybody(skb))
		return PASS;
	if (have_tail_calls)
		bpf_tail_call(skb, &tails, TAIL_NOBODY);
	return TC_ACT_SHOT;
}

#define ICMP_NET_UNKNOWN 6 /* RFC 1122, 3.2.2.1 */
#define QUOTED_PAYLOAD 8   /* what errors quote at least: RFC 792 */

/* Makes of a SYN, whose IP header is quoted, the RST that answers it. */
static inline void write_reset(struct rejection *rejection, const struct packet *syn, bool v4)
{
	__be32 *tcp = (__be32 *)&rejection->type;

	write_ip(rejection, v4, IPPROTO_TCP, TCP_HEADER);
	tcp[0] = *(const __be32 *)&syn->tuple.peer_port; /* and the own one */
	tcp[1] = 0;
	tcp[2] = bpf_htonl(syn->seq + 1);
	tcp[3] = bpf_htonl((TCP_HEADER / 4) << 28 | (TCP_RST | TCP_ACK) << 16);
	tcp[4] = 0;
	((__be16 *)tcp)[offsetof(struct tcphdr, check) / 2] =
		checksum_of(tcp, TCP_HEADER, pseudo_header(rejection, v4, IPPROTO_TCP, TCP_HEADER));
}

/* Turns the packet into what refuses it; false where nothing does, and it stays what it is. */
__noinline int become_rejection(struct __sk_buff *skb, __u32 only_tcp)
{
	struct scratch *scratch = get_scratch();
	struct rejection *rejection = &scratch->rejection;
	struct packet *packet = &scratch->packet;
	__u32 quoted;
	bool v4;

	*packet = (struct packet){};
	if (parse_ip(skb, packet, OUTBOUND, ETH_HLEN) != PARSED ||
	    !address_is_ordinary(packet->tuple.self) || !address_is_ordinary(packet->tuple.peer))
		return false;
	v4 = packet->family == 4;
	quoted = ip_size(v4) + QUOTED_PAYLOAD;
	if (packet->offset != ETH_HLEN + ip_size(v4) || bpf_skb_load_bytes(skb, ETH_HLEN, rejection->quote, quoted))
		return false;
	if (packet->protocol == IPPROTO_TCP) {
		if ((packet->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) != TCP_SYN)
			return false;
		write_reset(rejection, packet, v4);
		return become(skb, rejection, v4, ETH_HLEN, TCP_HEADER);
	}
	return !only_tcp && !packet->echo_reply &&
	       become_error(skb, rejection, v4, ETH_HLEN, v4 ? ICMP_DEST_UNREACH : ICMPV6_DEST_UNREACH,
			    v4 ? ICMP_NET_UNKNOWN : ICMPV6_PORT_UNREACH, 0, quoted);
}

/* After replypath_egress at the device of the fallback route: ends what was not moved to its flow's interface. */
SEC("tc")
int replypath_fallback(struct __sk_buff *skb)
{
	count_untraced(skb->protocol == bpf_htons(ETH_P_IP) ? EVENT_FALLBACK_DROPPED_V4
							     : EVENT_FALLBACK_DROPPED_V6);
	if (become_rejection(skb, false))
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return TC_ACT_SHOT;
}

/*
 * After replypath_egress. A held entry lets the kernel send to a gateway that does not answer: what begins a connection
 * is refused, and all else passes.
 */
SEC("tc")
int replypath_held(struct __sk_buff *skb)
{
	__u8 family = skb->protocol == bpf_htons(ETH_P_IP) ? 4 : 6;
	__u8 mac[ETH_ALEN] __attribute__((aligned(2)));

	if (!bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_dest), mac, sizeof(mac)) &&
	    is_held_gateway(mac, family, skb->ifindex) && become_rejection(skb, true))
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return PASS;
}
