/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way of a flow: interface, MAC and gateway, as its last good frame shows them. */
#pragma once

#include "next_hop.h"
#include "sequence.h"

/* An address that a reply can be sent to. */
static inline bool is_unicast(const __u8 *mac)
{
	return !(mac[0] & 1) && *(__u32 *)mac | *(__u16 *)(mac + 4);
}

/*
 * Puts the way that the scratch packet came into the scratch, with the flags of its next hop; false where the interface
 * is not managed or nothing can be sent back.
 */
__noinline int find_way_back(struct __sk_buff *skb)
{
	__u32 index = interface_index(skb->ifindex);
	struct interface *interface = get_interface(index, skb->ifindex);
	struct way way = { .ifindex = skb->ifindex, .interface = index };
	struct scratch *to = get_scratch();

	if (!to)
		return false;
	if (!interface || !index) {
		count_event(EVENT_IGNORED_INTERFACE);
		return false;
	}
	if (!(interface->flags & INTERFACE_NO_HEADER) && !is_unicast(to->packet.mac)) {
		count_event(EVENT_IGNORED_MAC);
		return false;
	}
	copy_mac(way.mac, to->packet.mac);
	choose_next_hop(skb, &to->packet, interface, &way);
	to->way = way;
	return true;
}

/* That the packet has lost its place in a table. */
static inline enum event insert_failed(const struct packet *packet)
{
	if (packet->protocol != IPPROTO_TCP)
		return EVENT_INSERT_FAILED_CONNECTIONLESS;
	return is_syn(packet) ? EVENT_INSERT_FAILED_HALF_OPEN : EVENT_INSERT_FAILED_ESTABLISHED;
}

/* Gives an entry the way that is in the scratch, by which nothing has left yet. It keeps the flags that are not of a next hop. */
static inline void take_way(struct scratch *from, struct flow *flow)
{
	from->way.flags |= flow->flags & ~(FLOW_NEXT_HOP_GATEWAY | FLOW_ENFORCE_MAC);
	store_way(flow, &from->way);
	flow->left = 0;
}

/* Writes the way that is in the scratch into the entry at this place, unless another CPU gave that to another flow. */
static inline bool put_way(struct scratch *from, int place)
{
	__u32 index = (__u32)place / WAYS;
	struct flow *flow = flow_at(place);
	struct bpf_spin_lock *lock = get_lock(index);
	bool done = false;

	if (!flow || !lock)
		return false;
	bpf_spin_lock(lock);
	if (tuple_equal(&flow->tuple, &from->packet.tuple)) {
		take_way(from, flow);
		done = true;
	}
	bpf_spin_unlock(lock);
	return done;
}

/* Writes the way that the scratch packet came into its entry in this table; false where it cannot go back by that. */
__noinline int set_way(struct __sk_buff *skb, __u32 table)
{
	struct scratch *from = get_scratch();

	if (!from || table > TABLE_CONNECTIONLESS || !find_way_back(skb))
		return false;
	if (put_way(from, place_of(table, from->packet.digest)))
		return true;
	count_event(insert_failed(&from->packet));
	return false;
}

static inline enum table lasting_table(const struct packet *packet)
{
	return packet->protocol == IPPROTO_TCP ? TABLE_ESTABLISHED : TABLE_CONNECTIONLESS;
}

static inline void mark_active(struct flow *flow)
{
	if (!(flow->flags & FLOW_ACTIVE))
		flow->flags |= FLOW_ACTIVE;
}

/* Whether the frame changes nothing of the flow's way: it came by that, as others did this second. */
static inline bool is_next_frame(const struct __sk_buff *skb, const struct packet *packet,
				 const struct flow *flow)
{
	return came_by(flow, skb, packet) && !is_due(flow);
}
