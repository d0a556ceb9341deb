/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The source of what a wildcard UDP socket sends (docs/design/source-repair.md). The kernel looks for the route
 * afterwards: net/ipv4/udp.c, udp_sendmsg(); net/ipv6/udp.c, udpv6_sendmsg().
 */
#pragma once

#include "outbound.h"
#include "socket.h"

static inline struct flow *live_flow(__u64 digest)
{
	struct flow *flow = find_digest(digest, TABLE_CONNECTIONLESS);

	return flow && !is_idle(flow, TABLE_CONNECTIONLESS) ? flow : NULL;
}

/* Whether what such a socket takes may be for one that is bound to no address. */
static inline bool may_be_wildcard(enum udp_socket socket)
{
	return socket == UDP_SOCKET_WILDCARD || socket == UDP_SOCKET_OTHER;
}

static inline enum source_repair repair_of(const struct packet *packet)
{
	return packet->protocol == IPPROTO_UDP ? configuration.repair : REPAIR_OFF;
}

/* The peer asked by the scratch packet's flow (docs/design/source-repair.md). Returns whether that is known. */
__noinline int enter_question(struct __sk_buff *skb, __u32 known_wildcard)
{
	const struct packet *packet = scratch_packet();
	__u64 asker = lead_key(LEAD_ASKER, &packet->tuple, 0), digest = packet->digest;
	const struct lead *last = find_lead(asker);
	__u64 before = last ? last->digest : 0;
	struct flow *flow, *other;

	if (before == digest)
		return true;
	if (!own_address(packet->tuple.self) || find_note(asker) ||
	    (!known_wildcard && !may_be_wildcard(taker(skb))))
		return false;
	enter_lead(asker, digest, TABLE_CONNECTIONLESS, 0, IPPROTO_UDP);
	flow = live_flow(digest);
	other = before ? live_flow(before) : NULL;
	if (flow && other) { /* until its next second each of the two has to tell when the peer asks by it */
		flow->flags |= FLOW_ALTERNATES;
		other->flags |= FLOW_ALTERNATES;
	}
	return true;
}

/* The scratch packet answers what the host began: what a wildcard socket sends to that peer goes as routed. */
__noinline int leave_source_open(struct __sk_buff *skb)
{
	const struct packet *packet = scratch_packet();
	__u64 asker = lead_key(LEAD_ASKER, &packet->tuple, 0);

	if (!find_note(asker) && !(own_address(packet->tuple.self) && may_be_wildcard(taker(skb))))
		return 0;
	enter_note(asker, now());
	bpf_map_delete_elem(&leads, &asker);
	return 0;
}

/* A flow began, to such a socket. Where the loader waits for the first that needs the address that was asked, it is told. */
static inline void first_question_came(struct __sk_buff *skb, const struct packet *packet, enum udp_socket socket)
{
	enum source_repair repair = repair_of(packet);

	if (repair == REPAIR_WATCH ? socket == UDP_SOCKET_WILDCARD : repair == REPAIR_ON && may_be_wildcard(socket))
		if (enter_question(skb, true) && repair == REPAIR_WATCH)
			enter_lead(LEAD_WATCHED, packet->digest, TABLE_CONNECTIONLESS, 0, IPPROTO_UDP);
}

/* The cgroup's programs run in the sending process, which softirqs interrupt: they leave the scratch memory alone. */
#define ALLOW 1

/*
 * Enters the address that the peer asked last into the tuple, which holds the peer. Returns whether the socket is to
 * answer from there: docs/design/source-repair.md says what is left alone.
 */
static inline bool find_source(struct bpf_sock_addr *ctx, struct tuple *tuple, __u8 family)
{
	const struct interface *interface;
	const volatile struct lead *last;
	struct flow *flow;
	__u64 wanted;

	if (ctx->protocol != IPPROTO_UDP || bpf_get_netns_cookie(ctx) != own_namespace)
		return false;
	tuple->protocol = IPPROTO_UDP;
	tuple->peer_port = ctx->user_port;
	tuple->self_port = bpf_htons(ctx->sk->src_port);
	last = find_lead(lead_key(LEAD_ASKER, tuple, 0));
	wanted = last ? last->digest : 0; /* read once: another process may ask meanwhile */
	flow = last ? live_flow(wanted) : NULL;
	if (!flow)
		return false;
	__builtin_memcpy(tuple->self, flow->tuple.self, sizeof(tuple->self));
	/* Of an entry that was overwritten meanwhile the digest is another. */
	if (digest(tuple, family) != wanted || !own_address(tuple->self))
		return false;
	interface = get_interface(flow->interface, flow->ifindex);
	return interface && is_enforced(interface) && !is_bound_off(ctx->sk->bound_dev_if, interface);
}

/* An IPv4 socket, or an IPv6 one that sends to an IPv4-mapped address. */
SEC("cgroup/sendmsg4")
int replypath_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct tuple tuple = {};

	address_from_v4(tuple.peer, ctx->user_ip4);
	if (!ctx->msg_src_ip4 && find_source(ctx, &tuple, 4)) {
		ctx->msg_src_ip4 = ((const __u32 *)tuple.self)[3];
		count_untraced(EVENT_SOURCE_REPAIRED_V4);
	}
	return ALLOW;
}

SEC("cgroup/sendmsg6")
int replypath_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct tuple tuple = {};
	const __u32 *self = (const __u32 *)tuple.self;

	address_from_v6(tuple.peer, (const struct in6_addr *)ctx->user_ip6);
	if (!(ctx->msg_src_ip6[0] | ctx->msg_src_ip6[1] | ctx->msg_src_ip6[2] | ctx->msg_src_ip6[3]) &&
	    find_source(ctx, &tuple, 6)) {
		ctx->msg_src_ip6[0] = self[0];
		ctx->msg_src_ip6[1] = self[1];
		ctx->msg_src_ip6[2] = self[2];
		ctx->msg_src_ip6[3] = self[3];
		count_untraced(EVENT_SOURCE_REPAIRED_V6);
	}
	return ALLOW;
}
