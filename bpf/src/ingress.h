/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What comes in: records by which path it did. Never drops a packet, and changes none but a SYN that announces more than
 * fits (mtu.h). The next frame of a known flow by its own path is all that the fast path deals with; everything else is
 * in ingress_slow.h.
 */
#pragma once

#include "ingress_slow.h"
#include "trace.h"

/* Whether a table may have an entry of the packet's tuple. */
static inline bool may_hold(enum table table, const struct packet *packet)
{
	const __u64 *tags = get_tags(first_in(table, packet->digest));

	return !tags || *tags & OVERFLOWED || tag_matches(*tags, packet->digest);
}

/* Whether the segment may end the handshake of the next connection with the tuple of one that is closing. */
static inline bool may_end_handshake(const struct packet *packet, const struct flow *flow)
{
	return is_closing(flow) && may_hold(TABLE_HALF_OPEN, packet);
}

static inline void hand_to_slow_path(struct __sk_buff *skb, const struct packet *packet)
{
	if (put_in_scratch(packet))
		inbound_change(skb);
}

/* Whether a segment without an entry changes nothing: forwarded, an answer to the host, or asked about lately. */
static inline bool pass_known_segment(struct __sk_buff *skb, const struct packet *packet)
{
	if (is_foreign_address(packet, skb->ifindex) || likely(answers_host(skb, packet)))
		return true;
	return is_marked(MARK_NO_FLOW, packet->digest) && !changes_stray(skb, packet);
}

/* Deals with a segment of an established connection, if it changes nothing but its age; returns false for any other. */
static inline bool pass_established(const struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	if (unlikely(!is_next_frame(skb, packet, flow)) || unlikely(may_end_handshake(packet, flow)))
		return false;
	set_active(flow);
	track_received(packet, flow);
	return true;
}

static inline void inbound_tcp(struct __sk_buff *skb, const struct packet *packet)
{
	struct flow *flow = NULL;

	if (likely(!(packet->tcp_flags & (TCP_SYN | TCP_RST)))) {
		flow = find(packet, TABLE_ESTABLISHED);
		if (likely(flow && pass_established(skb, packet, flow)))
			return;
	}
	/* A SYN starts an entry, and a RST ends one. */
	if (!flow && !(packet->tcp_flags & TCP_RST) && !is_syn(packet) && pass_known_segment(skb, packet))
		return;
	hand_to_slow_path(skb, packet);
}

/* Deals with a datagram without an entry that is known to begin nothing; returns false for any other. */
static inline bool pass_known_datagram(struct __sk_buff *skb, const struct packet *packet)
{
	const struct note *note;

	if (is_foreign_address(packet, skb->ifindex))
		return true;
	note = packet->echo_request ? NULL : find_note(packet->digest);
	if (note && was_just_heard(note)) {
		count_event(EVENT_IGNORED_ANSWER);
		return true;
	}
	return is_marked(MARK_NO_FLOW, packet->digest);
}

/* UDP, SCTP, echo and listed protocols. */
static inline void inbound_connectionless(struct __sk_buff *skb, const struct packet *packet)
{
	struct flow *flow;

	if (packet->echo_reply)
		return;
	flow = find(packet, TABLE_CONNECTIONLESS);
	if (likely(flow && is_next_frame(skb, packet, flow)) &&
	    likely(!(flow->flags & FLOW_ALTERNATES)) && likely(!is_untaken(flow)))
		return set_active(flow);
	if (flow || !pass_known_datagram(skb, packet))
		hand_to_slow_path(skb, packet);
}

static inline int ingress(struct __sk_buff *skb, __u32 header)
{
	struct packet packet = {};
	enum parsed result;

	if (skb->pkt_type != PACKET_HOST) /* flooded frames for other stations are seen here too */
		return PASS;
	result = parse(skb, &packet, INBOUND, header);
	if (unlikely(result != PARSED))
		count_unparsed(result);
	else if (packet.protocol == IPPROTO_TCP)
		inbound_tcp(skb, &packet);
	else
		inbound_connectionless(skb, &packet);
	if (is_traced())
		trace_in(skb, header);
	return PASS;
}
