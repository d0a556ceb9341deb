/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections that the host originates, and that are answered where they were moved to. The established table tells what
 * was decided for one, as if it were a flow: so its segments, both ways, cost what those of a flow do.
 *
 * Only the fast paths heed such an entry; it says no more than the record in `originated`. An answer enters it once a
 * second. Whatever it does not tell ends it: then all goes on as without.
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

	if (!record || record->outcome != OUTCOME_CORRECTED || !tuple_equal(&record->tuple, &packet->tuple))
		return false;
	decision = read_decision(record, packet);
	interface = interface_of(decision >> DECIDED_INTERFACE_SHIFT & 0xffff, &index);
	if (!ways || decision >> DECIDED_WAYS_SHIFT != ways || !interface || interface->ifindex != skb->ifindex ||
	    !(interface->flags & INTERFACE_STRONG))
		return false;
	flow = begin_flow(from, packet, interface, index, record);
	take_next_hop(decision, flow);
	flow->flags |= FLOW_IN_TABLE | (flow->flags & FLOW_ON_LINK ? 0 : FLOW_NEXT_HOP_GATEWAY);
	flow->snd_una = ways;
	flow->snd_nxt = record->from;
	flow->rcv_nxt = record->seen;
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
	if (may_hold(TABLE_NURSERY, &from->packet) || may_hold(TABLE_HALF_OPEN, &from->packet))
		return 0; /* perhaps the next connection of this tuple, which the peer opens */
	flow = &from->flow;
	copy_mac(flow->mac, from->packet.mac);
	flow->seen = flow->created = now();
	flow->corrected = 0;
	flow->state = FLOW_CORRECTED; /* counted as a flow already */
	enter_where_free(TABLE_ESTABLISHED, flow, from->packet.digest, &from->vacancy[0]);
	return 0;
}

/* Takes such an entry out, to the scratch flow: the record goes on with what it counted. Returns 0. */
__noinline int end_answered(__u64 digest)
{
	int place = place_of(TABLE_ESTABLISHED, digest);
	const struct flow *flow = flow_at(TABLE_ESTABLISHED, place);
	struct originated_tuple *record = find_originated(digest);
	struct scratch *to = get_scratch();

	if (!flow || !to || !(flow->flags & FLOW_IN_TABLE))
		return 0;
	to->flow = *flow;
	if (!remove_at(TABLE_ESTABLISHED, place, digest) || !record)
		return 0;
	__sync_fetch_and_add(&record->moved, to->flow.corrected);
	record->seen = to->flow.rcv_nxt;
	return 0;
}

/* Whether the entry tells where this segment goes, as the host itself sends it. If so, notes that it was sent. */
static inline bool still_decides(struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	__u32 index = flow->snd_nxt, time = now();
	const struct interface *chosen = bpf_map_lookup_elem(&interfaces, &index);
	const struct settings *settings = get_settings();

	if (!settings || flow->snd_una != *(volatile __u32 *)&settings->ways || !chosen ||
	    chosen->ifindex != skb->ifindex || !has_mac_of(skb, chosen) || is_for_group(packet) ||
	    age_at(flow->seen, time) > seconds(IDLE_ANSWERED) || packet->fragment ||
	    packet->tcp_flags & (TCP_FIN | TCP_RST))
		return false;
	if (flow->rcv_nxt != time)
		flow->rcv_nxt = time;
	return true;
}
