/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tells `replypath trace` of packets, each program at its end. While nobody traces, that is one load: is_traced(). */
#pragma once

#include "count.h"
#include "table.h"

/* A tracer says once a second how long it wants to be told: one that was killed is forgotten. */
static inline bool match_request(const struct tuple *tuple)
{
	if (!is_ahead(trace_filter.until, now())) {
		trace_filter.until = 0;
		return false;
	}
	return masked_equal(tuple->peer, trace_filter.peer, trace_filter.peer_mask) &&
	       masked_equal(tuple->self, trace_filter.self, trace_filter.self_mask);
}

/* Room for an event with what all of them have; counts it as lost where there is none. */
static inline struct trace_event *new_event(const struct __sk_buff *skb, enum trace_kind kind)
{
	struct trace_event *event = bpf_ringbuf_reserve(&trace_events, sizeof(*event), 0);

	if (!event) {
		count_untraced(EVENT_TRACE_LOST);
		return NULL;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time = bpf_ktime_get_ns();
	event->cpu = bpf_get_smp_processor_id();
	event->ifindex = skb->ifindex;
	event->kind = kind;
	return event;
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

/* Adds the packet's flow, if it is alive, or what its source decided. Of errors and fragments a flow tells the ports. */
static inline void add_flow(struct trace_event *event, const struct packet *packet, struct flow *decided, __u32 table)
{
	struct flow *flow = table <= TABLE_CONNECTIONLESS ? find_digest(packet->digest, table) : NULL;

	event->table = table > TABLE_END ? table : TABLE_END;
	if (table > TABLE_END)
		__builtin_memcpy(&event->path, &decided->ifindex, sizeof(event->path));
	if (!flow || is_idle(flow, table))
		return;
	event->table = table;
	event->flow_ifindex = flow->ifindex;
	event->tuple = flow->tuple;
}

/* Adds where the packet leaves, if it does: one that is too large, or for nobody, may become an error to its sender. */
static inline void add_exit(struct __sk_buff *skb, struct trace_event *event, struct handover *handover, int verdict)
{
	copy_mac(event->kernel_mac, event->mac);
	if (verdict == PASS) {
		event->out_ifindex = skb->ifindex;
		if (event->outcome == OUTCOME_CORRECTED)
			bpf_skb_load_bytes(skb, 0, event->mac, sizeof(event->mac));
	} else if (event->outcome == OUTCOME_CORRECTED) {
		event->out_ifindex = handover->ifindex;
		copy_mac(event->mac, handover->frame);
		if (handover->headerless)
			__builtin_memset(event->mac, 0, sizeof(event->mac));
		handover->traced = true;
	} else {
		event->length = event->packets = 0;
	}
}

/* Tells of the scratch packet. `table`: of its flow, where it goes out. */
__noinline int trace(struct __sk_buff *skb, __u32 kind, __u32 result, __u32 table, int verdict)
{
	struct scratch *scratch = get_scratch();
	const struct packet *packet = &scratch->packet;
	__u64 raised = scratch->raised;
	struct trace_event *event;

	scratch->raised = 0;
	if (kind == TRACE_IN) /* the table that holds the flow, once it was recorded */
		table = packet->protocol != IPPROTO_TCP ? TABLE_CONNECTIONLESS :
			find_digest(packet->digest, TABLE_ESTABLISHED) ? TABLE_ESTABLISHED : TABLE_HALF_OPEN;
	if (!(kind == TRACE_IN ? result == PARSED : has_addresses(result)) || !match_request(&packet->tuple))
		return 0;
	event = new_event(skb, kind);
	if (!event)
		return 0;
	event->tuple = packet->tuple;
	event->tuple.protocol = packet->protocol;
	event->family = packet->family;
	event->tcp_flags = packet->tcp_flags;
	event->form = form_of(packet, result);
	event->outcome = packet->outcome;
	event->length = skb->len;
	event->packets = wire_packets(skb, packet);
	copy_mac(event->mac, packet->mac);
	add_flow(event, packet, &scratch->flow, table);
	if (kind == TRACE_IN)
		event->counted = raised;
	else
		add_exit(skb, event, &scratch->handover, verdict);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Tells that what was told of last on this CPU leaves where it was moved to. */
__noinline int trace_left(struct __sk_buff *skb)
{
	struct trace_event *event = new_event(skb, TRACE_LEFT);

	if (event)
		bpf_ringbuf_submit(event, 0);
	return 0;
}

/*
 * Tells of a packet that came in, which is parsed once more: kept until the end it would be in memory rather than in
 * registers, and cost each packet 90 instructions that nobody traces.
 */
__noinline int trace_in(struct __sk_buff *skb, __u32 header)
{
	struct packet *packet = &get_scratch()->packet;

	__builtin_memset(packet, 0, sizeof(*packet));
	return trace(skb, TRACE_IN, parse(skb, packet, INBOUND, header), TABLE_END, PASS);
}

/* Tells of a packet that goes out. All of it would cost the verifier a fifth more time. */
static inline void trace_out(struct __sk_buff *skb, const struct packet *packet, enum parsed result,
			     enum table table, int verdict)
{
	__builtin_memcpy(&get_scratch()->packet, packet, offsetof(struct packet, seq));
	trace(skb, TRACE_OUT, result, table, verdict);
}
