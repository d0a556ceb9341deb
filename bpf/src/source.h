/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The source address of what an unconnected UDP socket sends. A socket that is bound to the wildcard address leaves it
 * to the route, which knows nothing of the question; where a flow of the peer's is known, it becomes the address that
 * was asked. The kernel looks for the route afterwards (net/ipv4/udp.c, udp_sendmsg(), and net/ipv6/udp.c), so that
 * rules by source address act as they should and the egress program finds the flow.
 *
 * These run in the context of the sending process, which softirqs interrupt: they only read, and leave the scratch
 * memory alone.
 */
#pragma once

#include "reply_source.h"
#include "reply.h"

/* What a program may do to a send: all of ours leave it alone or give it a source. */
#define ALLOW 1

/*
 * Enters the address that this peer asked last into the tuple. An entry of a flow may be overwritten while it is read:
 * the digest of the whole shows whether it is the flow that was looked for.
 */
static inline struct flow *asked_flow(struct tuple *tuple, __u8 family)
{
	__u64 asker = asker_digest(tuple, family), wanted;
	struct asked_set *set;
	struct flow *flow;
	__u32 index;
	int way;

	set = get_asked_set(asker, &index);
	if (!set)
		return NULL;
	way = find_way(set->asker, asker);
	if (way < 0)
		return NULL;
	wanted = set->flow[way];
	flow = live_flow(wanted);
	if (!flow)
		return NULL;
	__builtin_memcpy(tuple->self, flow->tuple.self, sizeof(tuple->self));
	return digest(tuple, family) == wanted ? flow : NULL;
}

/*
 * Whether the tuple, which holds the peer and both ports, gets an address to answer from. One that is no longer ours is
 * left out: IPv6 would send from it, and IPv4 fail. So is one that was asked by another interface than the socket is
 * bound to, or by none of its VRF's: the question was not for this socket, which the kernel keeps on its interface.
 */
static inline bool find_source(struct bpf_sock_addr *ctx, struct tuple *tuple, __u8 family)
{
	struct flow *flow = asked_flow(tuple, family);
	struct interface *interface;

	if (!flow || !own_address(tuple->self))
		return false;
	interface = get_interface(flow->interface, flow->ifindex);
	return interface && is_enforced(interface) && !is_bound_off(ctx->sk->bound_dev_if, interface);
}

/* Whether the source is open, and the socket in the namespace that we work for: those of all come by here. */
static inline bool has_open_source(struct bpf_sock_addr *ctx, __u32 source)
{
	return !source && ctx->protocol == IPPROTO_UDP &&
	       bpf_get_netns_cookie(ctx) == own_namespace;
}

static inline void set_end_points(struct bpf_sock_addr *ctx, struct tuple *tuple)
{
	tuple->protocol = IPPROTO_UDP;
	tuple->peer_port = ctx->user_port;
	tuple->self_port = bpf_htons(ctx->sk->src_port);
}

/* An IPv4 socket, or an IPv6 one that sends to an IPv4-mapped address. */
SEC("cgroup/sendmsg4")
int replypath_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct tuple tuple = {};

	if (!has_open_source(ctx, ctx->msg_src_ip4))
		return ALLOW;
	address_from_v4(tuple.peer, ctx->user_ip4);
	set_end_points(ctx, &tuple);
	if (!find_source(ctx, &tuple, 4))
		return ALLOW;
	ctx->msg_src_ip4 = ((const __u32 *)tuple.self)[3];
	count_untraced(EVENT_SOURCE_REPAIRED_V4);
	return ALLOW;
}

SEC("cgroup/sendmsg6")
int replypath_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct tuple tuple = {};
	__u32 *peer = (__u32 *)tuple.peer;
	const __u32 *self = (const __u32 *)tuple.self;

	if (!has_open_source(ctx, ctx->msg_src_ip6[0] | ctx->msg_src_ip6[1] |
					  ctx->msg_src_ip6[2] | ctx->msg_src_ip6[3]))
		return ALLOW;
	peer[0] = ctx->user_ip6[0];
	peer[1] = ctx->user_ip6[1];
	peer[2] = ctx->user_ip6[2];
	peer[3] = ctx->user_ip6[3];
	set_end_points(ctx, &tuple);
	if (!find_source(ctx, &tuple, 6))
		return ALLOW;
	ctx->msg_src_ip6[0] = self[0];
	ctx->msg_src_ip6[1] = self[1];
	ctx->msg_src_ip6[2] = self[2];
	ctx->msg_src_ip6[3] = self[3];
	count_untraced(EVENT_SOURCE_REPAIRED_V6);
	return ALLOW;
}
