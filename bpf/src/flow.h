/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flow entries and their age. */
#pragma once

#include "parse.h"

/*
 * Ticks since then; none where another CPU wrote a time that this one has not reached yet. All else is past, even of a
 * year ago: nobody removes an idle entry.
 */
static inline __u32 age_at(__u32 then, __u32 time)
{
	__u32 ticks = time - then;

	return ticks >= -(__u32)TICKS_AHEAD ? 0 : ticks;
}

static inline __u32 age(__u32 then)
{
	return age_at(then, now());
}

/* Whether a time that was set as the end of something is yet to come. */
static inline bool is_ahead(__u32 end, __u32 time)
{
	__u32 ticks = end - time;

	return ticks && ticks < TICKS_AHEAD;
}

static inline __u32 seconds(__u32 count)
{
	return count * hertz / JIFFIES_PER_TICK;
}

static inline bool is_ping(const struct flow *flow)
{
	return flow->tuple.protocol == IPPROTO_ICMP || flow->tuple.protocol == IPPROTO_ICMPV6;
}

static inline bool is_closing(const struct flow *flow)
{
	return (flow->state & FLOW_CLOSING) | (flow->flags & FLOW_RESET);
}

/* Whether nobody took a connectionless flow's datagrams: no socket, and nobody behind a NAT, who had answered. */
static inline bool is_untaken(const struct flow *flow)
{
	return flow->flags & FLOW_NO_SOCKET && !(flow->state & FLOW_REPLIED);
}

static inline __u32 idle_limit(const struct flow *flow, enum table table)
{
	if (table == TABLE_ESTABLISHED)
		return seconds(is_closing(flow) ? IDLE_CLOSING : IDLE_ESTABLISHED);
	if (table == TABLE_HALF_OPEN)
		return seconds(IDLE_HALF_OPEN);
	return seconds(is_ping(flow) ? IDLE_ECHO : IDLE_CONNECTIONLESS);
}

/* An idle entry counts as none. Of a conversation of datagrams, what left counts as well (docs/design/flow-life.md). */
static inline bool is_idle(const struct flow *flow, enum table table)
{
	__u32 time = now(), limit = idle_limit(flow, table);

	return age_at(flow->seen, time) > limit &&
	       (table != TABLE_CONNECTIONLESS || !(flow->state & FLOW_REPLIED) || age_at(flow->spoke, time) > limit);
}

/* Whether an idle entry of datagrams proves that the peer began: it was answered, and a note would last as long. */
static inline bool proves_peer_began(const struct flow *flow)
{
	return flow->state & FLOW_REPLIED && age(flow->seen) <= seconds(IDLE_OUTBOUND);
}

/* `seen` is written once a second at most, so that its cache line stays shared. In between a flag is set. */
static inline bool is_due(const struct flow *flow)
{
	return age(flow->seen) >= seconds(1);
}

static inline bool mac_equal(const __u8 *a, const __u8 *b)
{
	return *(__u32 *)a == *(__u32 *)b && *(__u16 *)(a + 4) == *(__u16 *)(b + 4);
}

/*
 * The same pointer, which is read through after these words of what it points to were read: what a load's address depends on is
 * loaded before, on every CPU that Linux runs on (Documentation/memory-barriers.txt, address dependencies).
 */
static inline const void *after_reading(const void *memory, const __u64 *copy, __u32 words)
{
	__u64 all = 0;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < words; i++)
		all |= ((const volatile __u64 *)copy)[i];
	asm volatile("%0 &= 0" : "+r"(all));
	return memory + all;
}

static inline bool has_ends_of(const struct flow *flow, const struct tuple *tuple)
{
	return address_equal(flow->tuple.peer, tuple->peer) && address_equal(flow->tuple.self, tuple->self);
}

static inline bool came_by(const struct flow *flow, const struct __sk_buff *skb, const struct packet *packet)
{
	return flow->ifindex == skb->ifindex && mac_equal(flow->mac, packet->mac);
}

/*
 * Whether the frame changes nothing of the flow's path: it came by it, as others did this second. Those may not have
 * reached their socket yet (docs/design/flow-life.md; net/core/dev.c, __netif_receive_skb_list_core()).
 */
static inline bool is_next_frame(const struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	return came_by(flow, skb, packet) && !is_due(flow);
}
