/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections that the host originates, and that are answered where they were moved to. What was decided for one stands in
 * the established table as a flow would: so its segments, both ways, cost what those of a flow do.
 *
 * Only the fast paths heed such an entry; it says no more than the record in `originated`, which goes on with what it
 * counted. An answer enters it once a second. Whatever it does not tell ends it: then all goes on as without.
 */
#pragma once

#include "originate.h"

/* Whether the scratch packet answers what was moved to where it came in, as decided: then the scratch flow says how. */
static inline bool is_answer_to_moved(const struct __sk_buff *skb, struct scratch *from, const struct settings *settings)
{
	__u32 ways = *(volatile __u32 *)&settings->ways, index;
	struct packet *packet = &from->packet;
	struct originated_tuple *record = find_originated(packet->digest);
	const struct interface *interface;
	struct flow *flow;
	__u64 decision;

	if (!record || record->outcome != OUTCOME_CORRECTED || !record->from || record->state & ORIGINATED_CLOSED ||
	    !tuple_equal(&record->tuple, &packet->tuple))
		return false;
	decision = read_decision(record, packet);
	interface = interface_of(decision >> DECIDED_INTERFACE_SHIFT & 0xffff, &index);
	if (!ways || decision >> DECIDED_WAYS_SHIFT != ways || !interface || interface->ifindex != skb->ifindex ||
	    !(interface->flags & INTERFACE_STRONG))
		return false;
	flow = begin_flow(from, packet, interface, index, record);
	take_next_hop(decision, flow);
	flow->flags |= FLOW_IN_TABLE | (flow->flags & FLOW_ON_LINK ? 0 : FLOW_NEXT_HOP_GATEWAY);
	flow->ways = ways;
	flow->routed = record->from;
	flow->sent = record->seen;
	return true;
}

/* Enters what was decided for the connection of the scratch packet, an answer, if it was moved to where that came in. */
__noinline int enter_answered(struct __sk_buff *skb)
{
	const struct settings *settings = get_settings();
	struct scratch *from = get_scratch();
	struct flow *flow;

	if (!from || !settings || !is_answer_to_moved(skb, from, settings))
		return 0;
	if (place_of(TABLE_NURSERY, from->packet.digest) != NOWHERE ||
	    place_of(TABLE_HALF_OPEN, from->packet.digest) != NOWHERE)
		return 0; /* the peer opens the next connection of this tuple */
	flow = &from->flow;
	copy_mac(flow->mac, from->packet.mac);
	flow->seen = flow->touched = now();
	flow->corrected = 0;
	flow->state = FLOW_CORRECTED; /* counted as a flow already */
	enter_where_free(TABLE_ESTABLISHED, flow, from->packet.digest, &from->vacancy[0]);
	return 0;
}

/* Takes such an entry out: the record goes on with what it counted. Returns 0. */
__noinline int end_answered(__u64 digest)
{
	int place = place_of(TABLE_ESTABLISHED, digest);
	__u32 index = (__u32)place / WAYS, way = (__u32)place % WAYS, sent = 0;
	struct flow_set *set = get_set(TABLE_ESTABLISHED, index);
	__u64 *tags = get_tags(TABLE_ESTABLISHED, index), moved = 0;
	struct originated_tuple *record = find_originated(digest);
	struct bpf_spin_lock *lock = get_lock(index);
	bool done = false;

	if (place == NOWHERE || !set || !tags || !lock)
		return 0;
	bpf_spin_lock(lock);
	if (set->digest[way] == digest && set->flow[way].flags & FLOW_ORIGINATED) {
		moved = set->flow[way].corrected;
		sent = set->flow[way].sent;
		*tags = with_tag(*tags, way, 0);
		set->digest[way] = 0;
		done = true;
	}
	bpf_spin_unlock(lock);
	if (!done || !record)
		return 0;
	__sync_fetch_and_add(&record->moved, moved);
	record->seen = sent;
	return 0;
}

/* Keeps the record alive while the entry takes what is sent: one that is quiet for a second makes room. Returns 0. */
__noinline int touch_record(__u64 digest)
{
	struct originated_tuple *record = find_originated(digest);

	if (record)
		record->seen = now();
	return 0;
}

/* Notes that something is sent at this time. */
static inline void note_moved(const struct packet *packet, struct flow *flow, __u32 time)
{
	if (likely(flow->sent == time))
		return;
	flow->sent = time;
	if (age_at(flow->touched, time) < seconds(1) / 2)
		return;
	flow->touched = time;
	touch_record(packet->digest);
}

/* Whether the entry tells where this segment goes, as the host itself sends it. If so, notes that it was sent. */
static inline bool still_decides(struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	__u32 index = flow->routed, time = now();
	const struct interface *chosen = bpf_map_lookup_elem(&interfaces, &index);
	const struct settings *settings = get_settings();

	if (!settings || flow->ways != *(volatile __u32 *)&settings->ways || !chosen ||
	    chosen->ifindex != skb->ifindex || !has_mac_of(skb, chosen) || is_for_group(packet) ||
	    age_at(flow->seen, time) > seconds(IDLE_ANSWERED) || packet->fragment ||
	    packet->tcp_flags & (TCP_FIN | TCP_RST))
		return false;
	note_moved(packet, flow, time);
	return true;
}
