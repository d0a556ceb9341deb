/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow that starts to arrive by another interface or from another MAC. */
#pragma once

#include "admission.h"
#include "segment.h"

static inline bool is_pinned(void)
{
	struct settings *settings = get_settings();

	return settings && settings->follow == FOLLOW_PINNED;
}

static inline bool may_move(struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	struct settings *settings = get_settings();
	struct interface *present;

	if (!settings)
		return false;
	if (settings->follow == FOLLOW_LATEST)
		return true;
	if (settings->follow == FOLLOW_PINNED) {
		count_event(EVENT_REFUSED_PINNED);
		return false;
	}
	if (packet->protocol == IPPROTO_TCP) {
		if (segment_is_plausible(skb, packet, flow))
			return true;
	} else {
		present = get_interface(flow->interface, flow->ifindex);
		if (!present || !is_usable(flow->interface, flow->ifindex) || measure_silence(flow))
			return true;
	}
	count_event(EVENT_REFUSED_CONTESTED);
	return false;
}

/* Frames of a device that stands on this one pass here first. */
static inline bool is_on_its_way_up(const struct __sk_buff *skb, const struct flow *flow)
{
	struct interface *present = get_interface(flow->interface, flow->ifindex);

	return present && present->lower == skb->ifindex;
}

/* That a segment which never moves its flow came another way than that. */
static inline void count_contested(const struct __sk_buff *skb, const struct packet *packet,
				   const struct flow *flow)
{
	if (!came_by(flow, skb, packet) && !is_on_its_way_up(skb, flow))
		count_event(EVENT_REFUSED_CONTESTED);
}

/* The frame came another way than the flow's: the flow follows or the frame is only counted. */
static inline void follow_frame(struct __sk_buff *skb, struct scratch *from, struct flow *flow)
{
	const struct packet *packet = &from->packet;

	if (is_on_its_way_up(skb, flow))
		return;
	if (!may_move(skb, packet, flow) || !set_way(skb, lasting_table(packet)))
		return;
	flow->seen = now();
	flow->flags &= ~FLOW_ACTIVE;
	if (packet->protocol == IPPROTO_TCP)
		note_received(packet, flow);
	flow->state &= ~(FLOW_ASYMMETRIC | FLOW_CORRECTED);
	count_event(EVENT_MOVED + protocol_class(packet->protocol));
}
