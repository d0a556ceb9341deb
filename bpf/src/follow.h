/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow that starts to arrive by another interface or from another MAC. */
#pragma once

#include "admission.h"
#include "socket.h"

/* Whether nothing can leave by the flow's path: its device or link is down, or its gateway is silent. */
static inline bool is_cut_off(const struct flow *flow, __u8 family)
{
	mac_word mac;

	if (!is_usable(flow->interface, flow->ifindex))
		return true;
	return (flow->flags & (FLOW_NEXT_HOP_GATEWAY | FLOW_WAY)) == FLOW_NEXT_HOP_GATEWAY &&
	       (!gateway_mac(flow->gateway, flow->ifindex, &mac) || is_held_gateway(&mac, family, flow->ifindex));
}

/* The peer has moved if it comes by one other path, so often and for so long: docs/design/flow-life.md. */
enum rivalry {
	RIVAL_FRAMES = 3,
	RIVAL_SECONDS = 10,
	RIVAL_OWNER = 1 << 1, /* of a path's number: only its interface has the asked address, and the flow's is another */
};

/* The path by which a frame came, as a number that is not 0. */
static inline __u32 path_number(const struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	const struct interface *interface = interface_at(skb->ifindex);
	bool is_owner = interface && interface->id != flow->interface &&
			interface->id == own_address(packet->tuple.self) >> OWN_INTERFACE_SHIFT;
	__u64 path = 0;
	__u32 number;

	copy_mac(&path, packet->mac);
	((__u16 *)&path)[3] = skb->ifindex;
	number = finish_digest(path) >> 32 | 1;
	return is_owner ? number | RIVAL_OWNER : number & ~RIVAL_OWNER;
}

/*
 * A frame came by the flow's path: the peer comes by no other one alone. By the interface that has the address it need not:
 * of two that both bring frames, numbers prove nothing, as who forges sends more.
 */
static inline void heard_by_its_path(struct flow *flow)
{
	if (!(flow->rival & RIVAL_OWNER) || age(flow->rival_since) > seconds(IDLE_CONNECTIONLESS))
		flow->rival = 0;
}

/* Whether the peer, which has no connection, has moved. The frame proves nothing: docs/design/flow-life.md. */
static __noinline bool peer_has_moved(const struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	__u32 rival = path_number(skb, packet, flow);

	if (flow->flags & FLOW_ACTIVE) { /* the peer came by the flow's path since */
		flow->flags &= ~FLOW_ACTIVE;
		heard_by_its_path(flow);
	} else if (flow->ifindex == skb->ifindex && is_due(flow) && gateway_by_mac(skb, packet)) {
		return true;
	}
	if (flow->rival != rival) {
		flow->rival = rival;
		flow->rival_since = now();
		flow->rival_frames = 0;
	}
	if (flow->rival_frames < RIVAL_FRAMES)
		flow->rival_frames++;
	return flow->rival_frames == RIVAL_FRAMES && age(flow->rival_since) >= seconds(RIVAL_SECONDS);
}

/* Whether strict rp_filter is about to drop the frame: the kernel has answered by the flow's own interface so far. */
static inline bool is_to_be_dropped(const struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	const struct interface *interface = interface_at(skb->ifindex);

	return interface && interface->flags & INTERFACE_STRICT && packet->family == 4 && flow->ifindex != skb->ifindex &&
	       (flow->state & (FLOW_REPLIED | FLOW_ASYMMETRIC)) == FLOW_REPLIED;
}

static inline bool may_move(struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	bool proved, latest = configuration.follow == FOLLOW_LATEST;

	if (configuration.follow == FOLLOW_PINNED) {
		count_event(EVENT_REFUSED_PINNED);
		return false;
	}
	if (packet->protocol == IPPROTO_TCP)
		proved = segment_is_plausible(skb, packet, flow) || latest; /* put_on_trial() wants the socket asked */
	else
		proved = latest || is_cut_off(flow, packet->family) ||
			 (!is_to_be_dropped(skb, packet, flow) && peer_has_moved(skb, packet, flow));
	if (!proved)
		count_event(EVENT_REFUSED_CONTESTED);
	return proved;
}

/* Frames of a device that stands on this one pass here first. */
static inline bool is_on_its_way_up(const struct __sk_buff *skb, const struct flow *flow)
{
	struct interface *present = get_interface(flow->interface, flow->ifindex);

	return present && present->lower == skb->ifindex;
}

/* The frame came by another path: the flow follows, or the frame is only counted. Returns the flow's entry. */
static __noinline struct flow *follow_frame(struct __sk_buff *skb, struct scratch *scratch, struct flow *flow)
{
	const struct packet *packet = &scratch->packet;

	if (is_on_its_way_up(skb, flow) || refuse_tunnel(skb, packet) || !may_move(skb, packet, flow))
		return flow;
	flow = set_path(skb, scratch, flow, packet->protocol == IPPROTO_TCP ? TABLE_ESTABLISHED : TABLE_CONNECTIONLESS,
			LEARNT_WAY);
	if (!flow)
		return NULL;
	flow->seen = now();
	flow->flags &= ~FLOW_ACTIVE;
	if (packet->protocol == IPPROTO_TCP)
		put_on_trial(packet, flow, ATTEMPT_FIRST);
	else
		flow->rival = 0;
	flow->state &= ~(FLOW_ASYMMETRIC | FLOW_CORRECTED);
	count_event(EVENT_MOVED + protocol_class(packet->protocol));
	return flow;
}
