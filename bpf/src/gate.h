/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the fallback routes let by to their device: they have the kernel ask before the hook POSTROUTING of netfilter
 * (kernel: bpf_output() in net/core/lwt_bpf.c, for ip_output() and ip6_output()), where it can still be told that a
 * packet is not sent.
 *
 * - Forwarded packets. What came so far would be noted by connection tracking, by which a container's connection would
 *   not outlive the fault: one that is masqueraded is forgotten, as it leaves by another interface than it did
 *   (nf_nat_oif_changed() in include/net/netfilter/nf_nat.h, nf_nat_inet_fn()); one that is not known is noted without
 *   a translation where the rule for that is for the interface that has gone, and is not translated afterwards either.
 * - Datagrams of sockets that are not connected. An ICMP error tells these nothing (__udp4_lib_err() in
 *   net/ipv4/udp.c); so sendto(2) is to fail, with EPERM.
 *
 * What passes: replies of connections that others began, what a flow or a source moves, SYNs and datagrams of connected
 * sockets, which are answered on the device, and whatever is not certain.
 */
#pragma once

#include "parse.h"
#include "nursery.h"
#include "originate.h"

#define CONNTRACK_INFO 7UL /* NFCT_INFOMASK */
#define CONNTRACK_REPLY 3  /* IP_CT_IS_REPLY: what is less was sent by who began; more is untracked */

enum side {
	SIDE_UNKNOWN,
	SIDE_UNTRACKED,
	SIDE_ORIGINAL, /* sent by who began the connection */
	SIDE_REPLY,
};

/* Who sends the packet, for connection tracking. Its address passes through a map: see is_transparent(). */
static inline enum side side_of(struct __sk_buff *skb)
{
	struct scratch *through = get_scratch();
	const struct sk_buff *kernel;
	unsigned long tracked;

	if (!have_probe_read || !through)
		return SIDE_UNKNOWN;
	through->socket = (__u64)skb;
	kernel = (const struct sk_buff *)*(volatile __u64 *)&through->socket;
	if (!bpf_core_field_exists(kernel->_nfct))
		return SIDE_UNTRACKED;
	tracked = BPF_CORE_READ(kernel, _nfct);
	if (!(tracked & ~CONNTRACK_INFO))
		return SIDE_UNTRACKED;
	return (tracked & CONNTRACK_INFO) < CONNTRACK_REPLY ? SIDE_ORIGINAL : SIDE_REPLY;
}

static inline bool has_flow(const struct packet *packet)
{
	enum table table;

	if (packet->protocol != IPPROTO_TCP)
		return find_live(packet, TABLE_CONNECTIONLESS);
	return find_tcp(packet, &table);
}

static inline bool is_unconnected(const struct __sk_buff *skb, const struct packet *packet)
{
	const struct bpf_sock *socket = skb->sk;

	return packet->protocol == IPPROTO_UDP && socket && socket->state != BPF_TCP_ESTABLISHED;
}

/* Whether what belongs to no flow ends here. */
static inline bool is_stopped(struct __sk_buff *skb, const struct packet *packet)
{
	enum side side = side_of(skb);

	if (skb->ingress_ifindex) /* it is forwarded */
		return side == SIDE_ORIGINAL && !is_syn(packet);
	/* A reply whose addresses are still to be translated back is not known by them. */
	return (side == SIDE_ORIGINAL || side == SIDE_UNTRACKED) &&
	       is_unconnected(skb, packet);
}

SEC("lwt_out")
int replypath_gate(struct __sk_buff *skb)
{
	struct packet packet = {};

	if (parse(skb, &packet, OUTBOUND, 0) != PARSED || !is_stopped(skb, &packet) || has_flow(&packet) ||
	    is_moved_by_source(&packet))
		return BPF_OK;
	count_untraced(packet.family == 4 ? EVENT_FALLBACK_DROPPED_V4 : EVENT_FALLBACK_DROPPED_V6);
	return BPF_DROP;
}
