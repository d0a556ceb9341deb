/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tells `replypath trace` of packets as they pass. While nobody traces, all of it is is_traced(): one load. What
 * follows are global functions that work in the scratch memory, so that it takes no stack where stack is scarce.
 */
#pragma once

#include "pair.h"
#include "table.h"

/*
 * Returns whether the tracer asked for this tuple, and forgets a tracer that was killed: each says once a second how
 * long it wants to be told.
 */
static inline bool match_request(const struct tuple *tuple)
{
	__u32 zero = 0;
	struct trace_request *filter = bpf_map_lookup_elem(&trace_filter, &zero);

	if (!filter || !filter->until)
		return false;
	if (!is_ahead(filter->until, now())) {
		filter->until = 0;
		return false;
	}
	return masked_equal(tuple->peer, filter->peer, filter->peer_mask) &&
	       masked_equal(tuple->self, filter->self, filter->self_mask);
}

static inline enum parsed parse_again(struct __sk_buff *skb, struct packet *packet, enum direction direction,
				      __u32 header)
{
	__builtin_memset(packet, 0, sizeof(*packet));
	return parse(skb, packet, direction, header);
}

/* Remembers what becomes of a reply that is not moved, and where it was addressed. */
__noinline int trace_outcome(struct __sk_buff *skb, __u32 outcome)
{
	struct trace_slot *slot = get_trace_slot();

	if (!slot)
		return 0;
	if (outcome == OUTCOME_CORRECTED)
		bpf_skb_load_bytes(skb, 0, slot->kernel_mac, sizeof(slot->kernel_mac));
	slot->outcome = outcome;
	return 0;
}

/* Room for an event with what all of them have; counts it as lost where there is none. */
static inline struct trace_event *new_event(const struct __sk_buff *skb, struct trace_slot *slot,
					    enum trace_kind kind)
{
	struct trace_event *event = bpf_ringbuf_reserve(&trace_events, sizeof(*event), 0);

	if (!event) {
		slot->lost++;
		return NULL;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time = bpf_ktime_get_ns();
	event->cpu = bpf_get_smp_processor_id();
	event->sequence = slot->sequence;
	event->ifindex = skb->ifindex;
	event->length = skb->len;
	event->kind = kind;
	event->table = TABLE_END;
	return event;
}

/* The table that holds the flow of an inbound packet, once it was recorded. */
static inline __u32 table_of(const struct packet *packet)
{
	if (packet->protocol != IPPROTO_TCP)
		return TABLE_CONNECTIONLESS;
	if (find_digest(packet->digest, TABLE_ESTABLISHED))
		return TABLE_ESTABLISHED;
	return find_digest(packet->digest, TABLE_NURSERY) ? TABLE_NURSERY : TABLE_HALF_OPEN;
}

static inline enum trace_form form_of(const struct packet *packet, enum parsed result)
{
	if (result == PARSED_ERROR)
		return TRACE_ERROR;
	if (result == PARSED_FRAGMENT)
		return TRACE_FRAGMENT;
	if (packet->echo_request)
		return TRACE_ECHO_REQUEST;
	return packet->echo_reply ? TRACE_ECHO_REPLY : TRACE_PACKET;
}

static inline void describe(const struct __sk_buff *skb, struct trace_event *event,
			    const struct packet *packet, enum parsed result)
{
	event->tuple = packet->tuple;
	event->tuple.protocol = packet->protocol;
	event->family = packet->family;
	event->tcp_flags = packet->tcp_flags;
	event->form = form_of(packet, result);
	event->packets = wire_packets(skb, packet);
}

/* Adds the flow with this digest, if it is alive. Of errors and fragments it tells the ports. */
static inline void add_flow(struct trace_event *event, __u64 digest, __u32 table)
{
	struct flow *flow = table <= TABLE_NURSERY ? find_digest(digest, table) : NULL;

	if (!flow || is_idle(flow, table))
		return;
	event->table = kind_of(flow, table);
	event->flow_ifindex = flow->ifindex;
	event->tuple = flow->tuple;
}

/*
 * Tells of a packet that came in and was recorded, or not. It is parsed once more: what its callers know of it they
 * would have to copy, which takes stack, and for which the verifier would look at them for many times as long.
 */
__noinline int trace_in(struct __sk_buff *skb, __u32 header)
{
	struct trace_slot *slot = get_trace_slot();
	struct scratch *from = get_scratch();
	struct trace_event *event;
	__u64 raised;

	if (!slot || !from)
		return 0;
	raised = slot->raised;
	slot->raised = 0;
	if (parse_again(skb, &from->packet, INBOUND, header) != PARSED ||
	    !match_request(&from->packet.tuple))
		return 0;
	event = new_event(skb, slot, TRACE_INBOUND);
	if (!event)
		return 0;
	event->counted = raised;
	copy_mac(event->mac, from->packet.mac);
	describe(skb, event, &from->packet, PARSED);
	add_flow(event, from->packet.digest, table_of(&from->packet));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Tells of a packet that goes out, if moved, just before: there may be no way back. Its flow is in `table`. */
__noinline int trace_out(struct __sk_buff *skb, __u32 kind, __u64 digest, __u32 table, __u32 header)
{
	struct trace_slot *slot = get_trace_slot();
	struct scratch *from = get_scratch();
	__u32 zero = 0, outcome;
	struct handover *handover = bpf_map_lookup_elem(&handovers, &zero);
	struct trace_event *event;
	enum parsed result;

	if (!slot || !from || !handover)
		return 0;
	slot->raised = 0;
	outcome = slot->outcome;
	slot->outcome = 0;
	slot->moved = false;
	result = parse_again(skb, &from->packet, OUTBOUND, header);
	if (result != PARSED && result != PARSED_ERROR && result != PARSED_FRAGMENT)
		return 0;
	if (!match_request(&from->packet.tuple))
		return 0;
	if (outcome != OUTCOME_REWRITE_FAILED) /* else it is the packet that was to be moved */
		slot->sequence++;
	event = new_event(skb, slot, kind);
	if (!event)
		return 0;
	event->outcome = outcome;
	copy_mac(event->kernel_mac, from->packet.mac);
	copy_mac(event->mac, from->packet.mac);
	if (kind == TRACE_MOVED) {
		if (handover->bare)
			__builtin_memset(event->mac, 0, sizeof(event->mac));
		else
			copy_mac(event->mac, handover->frame);
		slot->moved = true;
	} else if (outcome == OUTCOME_CORRECTED) {
		copy_mac(event->kernel_mac, slot->kernel_mac);
	}
	describe(skb, event, &from->packet, result);
	add_flow(event, digest, table);
	if (table >= TABLE_ORIGINATED) {
		event->table = table;
		event->flow_ifindex = kind == TRACE_MOVED ? handover->ifindex : 0;
	}
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Tells of a packet that went back to its sender as an error about its size: nothing else is left of it. */
__noinline int trace_return(struct __sk_buff *skb, __u64 digest, __u32 table)
{
	struct trace_slot *slot = get_trace_slot();
	struct scratch *scratch = get_scratch();
	struct trace_event *event;
	struct flow *flow;

	if (!slot || !scratch)
		return 0;
	slot->outcome = 0;
	slot->moved = false;
	/* That of what the host originates is still in the scratch. */
	flow = table >= TABLE_ORIGINATED ? &scratch->flow : find_digest(digest, table);
	if (!flow)
		return 0;
	if (!match_request(&flow->tuple))
		return 0;
	slot->sequence++;
	event = new_event(skb, slot, TRACE_RETURNED);
	if (!event)
		return 0;
	event->length = 0;
	event->outcome = OUTCOME_MTU;
	event->tuple = flow->tuple;
	event->family = address_is_v4(flow->tuple.peer) ? 4 : 6;
	event->table = table;
	event->flow_ifindex = flow->ifindex;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

__noinline int trace_arrival(struct __sk_buff *skb)
{
	struct trace_slot *slot = get_trace_slot();
	struct trace_event *event;

	if (!slot || !slot->moved)
		return 0;
	slot->moved = false;
	event = new_event(skb, slot, TRACE_LEAVING);
	if (!event)
		return 0;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

static inline void trace_outbound(struct __sk_buff *skb, enum trace_kind kind, const struct packet *packet,
				  enum table table, __u32 header)
{
	if (unlikely(is_traced()))
		trace_out(skb, kind, packet->digest, table, header);
}
