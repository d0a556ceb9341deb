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
 * sockets, which are answered on the device, and whatever is not certain. The source is the one that the packet will have:
 * connection tracking knows it of a connection of which a packet left before.
 */
#pragma once

#include "parse.h"
#include "table.h"
#include "originate.h"

#define CONNTRACK_INFO 7UL     /* NFCT_INFOMASK */
#define CONNTRACK_REPLY 3      /* IP_CT_IS_REPLY: what is less was sent by who began; more is untracked */
#define CONNTRACK_ENDS 16      /* where both ends stand in a struct nf_conn, at the least */
#define CONNTRACK_ENDS_LAST 96 /* and at the most */

enum side {
	SIDE_UNKNOWN,
	SIDE_UNTRACKED,
	SIDE_ORIGINAL, /* sent by who began the connection */
	SIDE_REPLY,
};

/*
 * What the packet is to connection tracking: the address of its connection, and in the lowest bits how it belongs to that;
 * 0 if nothing. The packet's own address passes through a map: see is_transparent().
 */
static inline unsigned long tracking_of(struct __sk_buff *skb)
{
	struct scratch *through = get_scratch();
	const struct sk_buff *kernel;

	if (!have_probe_read || !through)
		return 0;
	through->socket = (__u64)skb;
	kernel = (const struct sk_buff *)*(volatile __u64 *)&through->socket;
	return bpf_core_field_exists(kernel->_nfct) ? BPF_CORE_READ(kernel, _nfct) : 0;
}

/* Who sends the packet, for connection tracking. */
static inline enum side side_of(unsigned long tracking)
{
	if (!have_probe_read)
		return SIDE_UNKNOWN;
	if (!(tracking & ~CONNTRACK_INFO))
		return SIDE_UNTRACKED;
	return (tracking & CONNTRACK_INFO) < CONNTRACK_REPLY ? SIDE_ORIGINAL : SIDE_REPLY;
}

/* Whether it is the packet's address, as connection tracking writes those: IPv4 in the first of four words. */
static inline bool is_address(const __u32 *tracked, const __u8 *address)
{
	const __u32 *word = (const __u32 *)address;

	if (address_is_v4(address))
		return tracked[0] == word[3];
	return !((tracked[0] ^ word[0]) | (tracked[1] ^ word[1]) | (tracked[2] ^ word[2]) | (tracked[3] ^ word[3]));
}

/* Whether these are the two ends of the packet's connection, which the host forwards, or began itself. */
static inline bool are_ends(const struct conntrack_end *ends, const struct packet *packet)
{
	const struct conntrack_end *original = &ends[0], *reply = &ends[1];

	return original->direction == 0 && reply->direction == 1 && original->l3num == reply->l3num &&
	       original->protocol == packet->protocol && reply->protocol == packet->protocol &&
	       is_address(original->source, packet->tuple.self) && is_address(reply->source, packet->tuple.peer);
}

/*
 * Reads the two ends from a connection of connection tracking. They stand behind a reference count, a lock, a time and a
 * zone. Only the size of the lock differs: by itself it is a word, with PREEMPT_RT and for debugging it is longer.
 */
static inline bool read_ends(const void *connection, const struct packet *packet, struct conntrack_end *ends)
{
	for (__u32 at = CONNTRACK_ENDS; at <= CONNTRACK_ENDS_LAST; at += 8) {
		if (bpf_probe_read_kernel(ends, 2 * sizeof(*ends), connection + at))
			return false;
		if (are_ends(ends, packet))
			return true;
	}
	return false;
}

/*
 * Whether netfilter would forget the connection if it left by another interface than so far. Where the types are not
 * known, which tell it, any may be one of those.
 */
static inline bool is_masqueraded(const struct nf_conn *connection)
{
	const struct nf_conn_nat *translation;
	const struct nf_ct_ext *extensions;
	__u8 offset;

	if (!bpf_core_field_exists(connection->ext) || !bpf_core_field_exists(struct nf_conn_nat, masq_index))
		return true;
	extensions = BPF_CORE_READ(connection, ext);
	offset = extensions ? BPF_CORE_READ(extensions, offset[1]) : 0;
	translation = (const void *)extensions + offset;
	return offset && BPF_CORE_READ(translation, masq_index);
}

/*
 * Gives the packet the source that it will have. A connection of which no packet has left yet has the one that it came
 * with, in both its ends.
 */
static inline void translate_source(struct packet *packet, unsigned long tracking)
{
	const void *connection = (const void *)(tracking & ~CONNTRACK_INFO);
	struct conntrack_end ends[2];

	if (side_of(tracking) != SIDE_ORIGINAL || !read_ends(connection, packet, ends) || is_masqueraded(connection))
		return;
	if (packet->family == 4)
		address_from_v4(packet->tuple.self, ends[1].destination[0]);
	else
		__builtin_memcpy(packet->tuple.self, ends[1].destination, sizeof(packet->tuple.self));
}

static inline bool has_flow(const struct packet *packet)
{
	enum table table;

	if (packet->protocol != IPPROTO_TCP)
		return find_live(packet, TABLE_CONNECTIONLESS);
	return find_tcp(packet, &table, false);
}

static inline bool is_unconnected(const struct __sk_buff *skb, const struct packet *packet)
{
	const struct bpf_sock *socket = skb->sk;

	return packet->protocol == IPPROTO_UDP && socket && socket->state != BPF_TCP_ESTABLISHED;
}

/* Whether what belongs to no flow ends here. */
static inline bool is_stopped(const struct __sk_buff *skb, const struct packet *packet, enum side side)
{
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
	unsigned long tracking;

	if (parse(skb, &packet, OUTBOUND, 0) != PARSED)
		return BPF_OK;
	tracking = tracking_of(skb);
	if (!is_stopped(skb, &packet, side_of(tracking)) || has_flow(&packet))
		return BPF_OK;
	translate_source(&packet, tracking);
	if (is_moved_by_source(&packet))
		return BPF_OK;
	count_untraced(packet.family == 4 ? EVENT_FALLBACK_DROPPED_V4 : EVENT_FALLBACK_DROPPED_V6);
	return BPF_DROP;
}
