/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What this host originates: sent or forwarded by it with an own address as source, and no reply of a recorded flow. In
 * the strong end system model it leaves by the interface that has the address, in the weak one as routed (RFC 1122,
 * 3.3.4.2). Only the source decides: there is no flow to keep. What leaves by another interface than that of its source
 * has a record in `originated`, to be counted and listed. What was decided stands there as well, until something changes
 * that it depends on; who has no record is decided with each packet.
 */
#pragma once

#include "admission.h"
#include "fragment.h"
#include "originated.h"

/* The managed interface with a number in `interfaces`, which it notes; NULL for none. */
static inline const struct interface *interface_of(__u32 number, __u32 *index)
{
	const struct interface *interface;

	*index = number;
	if (!number)
		return NULL;
	interface = bpf_map_lookup_elem(&interfaces, index);
	return interface && interface->ifindex ? interface : NULL;
}

/* The managed interface that alone has the packet's source; NULL for none. */
static inline const struct interface *source_interface(const struct packet *packet, __u32 *index)
{
	return interface_of(own_address(packet->tuple.self) >> OWN_INTERFACE_SHIFT, index);
}

/*
 * Whether the packet leaves as its source wants it, or that wants nothing. What stands on this device (macvlan) is the
 * same wire. Each CPU keeps in mind which interface has a source: that is the same for all but a few.
 */
static inline bool suits_source(const struct __sk_buff *skb, const struct packet *packet)
{
	const __u64 *self = (const __u64 *)packet->tuple.self;
	const struct settings *settings = get_settings();
	struct scratch *scratch = get_scratch();
	const struct interface *interface;
	__u32 generation, number, index;
	struct source *source;
	bool is_known, suits;

	if (!settings || !scratch)
		return true;
	_Static_assert(SOURCES == 1 << (64 - 58), "the index has 6 bits");
	source = &scratch->sources[(self[0] ^ self[1]) * DIGEST_MULTIPLIER >> 58];
	generation = *(volatile __u32 *)&settings->generation;
	is_known = source->self[0] == self[0] && source->self[1] == self[1] && source->generation == generation;
	if (likely(is_known && source->ifindex == skb->ifindex))
		return true;
	number = is_known ? source->interface : own_address(packet->tuple.self) >> OWN_INTERFACE_SHIFT;
	interface = interface_of(number, &index);
	if (number && !interface) /* it is gone, or not told of yet */
		return true;
	suits = !interface || interface->ifindex == skb->ifindex || interface->lower == skb->ifindex;
	if (!is_known || suits)
		*source = (struct source){ { self[0], self[1] }, suits ? skb->ifindex : interface->ifindex,
					   number, generation };
	return suits;
}

static inline bool has_source(enum parsed result)
{
	return result == PARSED || result == PARSED_ERROR || result == PARSED_FRAGMENT;
}

/*
 * Whether the packets of the scratch packet's tuple are of those whose source is heeded: what could be a flow, were it a
 * reply.
 */
static inline bool is_heeded(const struct settings *settings, const struct packet *packet)
{
	return is_listed(settings, packet->protocol) && !is_dhcp(&packet->tuple) && refusal_of_ends() == EVENT_END;
}

static inline bool is_for_group(const struct packet *packet)
{
	return packet->mac[0] & 1;
}

static inline bool has_mac_of(struct __sk_buff *skb, const struct interface *interface)
{
	const __u8 *source;

	if (interface->flags & INTERFACE_NO_HEADER)
		return true;
	source = peek(skb, offsetof(struct ethhdr, h_source), ETH_ALEN);
	return source && mac_equal(source, interface->mac);
}

/*
 * Whether the frame is one that the host itself sends by this interface: those of guests on devices above it (macvtap)
 * pass here as well, with MACs of their own, whatever address they have.
 */
static inline bool is_hosts_frame(struct __sk_buff *skb, __u32 index)
{
	const struct interface *interface = bpf_map_lookup_elem(&interfaces, &index);

	return !index || !interface || has_mac_of(skb, interface);
}

/* Takes over what was decided about the first fragment; false where that was not originated. */
static inline bool take_over_first(struct scratch *from)
{
	struct packet *packet = &from->packet;

	if (!look_up_fragment(fragment_key(packet)) || from->fragment.table != TABLE_ORIGINATED)
		return false;
	packet->digest = from->fragment.digest;
	packet->protocol = packet->tuple.protocol = from->fragment.protocol; /* IPv6 tells it in the first one only */
	if (from->fragment.outcome != OUTCOME_CORRECTED)
		packet->settled = from->fragment.outcome;
	return true;
}

/* The gateway that takes packets from this source, where another one may drop them (RFC 8028); else the first. */
static inline __u32 gateway_of_source(const struct packet *packet, __u32 first)
{
	const __u32 *gateway = bpf_map_lookup_elem(&source_gateways, packet->tuple.self);

	return gateway ? *gateway : first;
}

/*
 * Chooses the next hop by this interface: the peer itself, where it is a neighbour; else the gateway that a route names
 * for it, or the only one; of several, the one of the source, or the first; else none. A tunnel needs none.
 */
static inline void choose_gateway(const struct packet *packet, const struct interface *interface, struct flow *flow)
{
	__u32 first = packet->family == 4 ? interface->first_gateway4 : interface->first_gateway6;
	__u32 gateway = first;

	if (interface->flags & INTERFACE_NO_HEADER)
		return;
	if (on_link_flags_of(packet->tuple.peer, interface->ifindex) & ON_LINK_ROUTED)
		flow->flags |= FLOW_ON_LINK;
	else if (is_served(packet, interface, interface->ifindex, &gateway))
		flow->gateway = gateway ? gateway : gateway_of_source(packet, first);
}

/* Gives the flow the MAC of its next hop; false where there is none, or its MAC is not known. */
static inline bool has_next_hop(const struct interface *interface, struct flow *flow)
{
	mac_word mac;

	if (interface->flags & INTERFACE_NO_HEADER || flow->flags & FLOW_ON_LINK)
		return true;
	if (!gateway_mac(flow->gateway, interface->ifindex, &mac))
		return false;
	copy_mac(flow->mac, &mac);
	return true;
}

/*
 * What was decided for a tuple, as one word, which another CPU reads whole: `ways` of the settings, from before anything
 * was read that decides; the interface; the gateway. In the record the digest lies over it: the map takes records from
 * tuples for others at any moment, and what one CPU still writes for the old one means nothing for the new one.
 */
enum decision {
	DECIDED_WAYS_SHIFT = 32,
	DECIDED_INTERFACE_SHIFT = 16,
	DECIDED_ON_LINK = 0xffff, /* in place of the gateway: the peer itself */
};

static inline __u64 read_decision(const struct originated_tuple *record, const struct packet *packet)
{
	return *(const volatile __u64 *)&record->decision ^ packet->digest;
}

static inline void note_decision(struct originated_tuple *record, const struct packet *packet, const struct flow *flow,
				 __u32 ways)
{
	__u64 next_hop = flow->flags & FLOW_ON_LINK ? DECIDED_ON_LINK : flow->gateway;

	_Static_assert(MAX_GATEWAYS <= DECIDED_ON_LINK, "no gateway has its number");
	_Static_assert(MAX_INTERFACES <= 1 << (DECIDED_WAYS_SHIFT - DECIDED_INTERFACE_SHIFT), "there is room");
	*(volatile __u64 *)&record->decision = ((__u64)ways << DECIDED_WAYS_SHIFT |
						(__u64)flow->interface << DECIDED_INTERFACE_SHIFT | next_hop) ^
					       packet->digest;
}

/* Gives the flow the next hop of a decision. */
static inline void take_next_hop(__u64 decision, struct flow *flow)
{
	__u16 next_hop = decision;

	if (next_hop == DECIDED_ON_LINK)
		flow->flags |= FLOW_ON_LINK;
	else
		flow->gateway = next_hop;
}

/* Notes by which interface the kernel sent the packet, by which it goes, when, and whether that closes a connection. */
static inline void refresh_originated(struct originated_tuple *record, const struct packet *packet, __u16 from, __u16 to)
{
	__u32 time = now();

	if (unlikely(packet->tcp_flags & (TCP_FIN | TCP_RST)))
		record->state |= ORIGINATED_CLOSED;
	else if (unlikely(packet->tcp_flags & TCP_SYN))
		record->state &= ~ORIGINATED_CLOSED;
	if (age_at(record->seen, time))
		record->seen = time;
	if (unlikely(record->from != from))
		record->from = from;
	if (unlikely(record->to != to))
		record->to = to;
}

/* Begins the scratch flow with what is read of one that is in no table. */
static inline struct flow *begin_flow(struct scratch *to, const struct packet *packet, const struct interface *interface,
				      __u16 index, const struct originated_tuple *record)
{
	const struct way way = { .ifindex = interface->ifindex, .interface = index, .flags = FLOW_ORIGINATED };
	struct flow *flow = &to->flow;

	flow->tuple = packet->tuple;
	flow->state = 0;
	store_way(flow, &way);
	flow->told = record ? record->told : 0;
	return flow;
}

/* What keeps the packet from leaving by the flow, as an enum outcome; 0 for nothing. */
static inline __u8 obstacle(const struct interface *interface, struct flow *flow)
{
	if (!(interface->flags & INTERFACE_STRONG))
		return OUTCOME_WEAK_HOST;
	if (has_next_hop(interface, flow))
		return 0;
	return is_enforced(interface) ? OUTCOME_NO_NEXT_HOP : OUTCOME_OBSERVE; /* who observes has nobody asked */
}

/*
 * The flow of a packet about whose tuple was decided, wherever the kernel sends it, until something changes that it
 * depends on; NULL where that has to be found out.
 */
static inline struct flow *decided_flow(struct __sk_buff *skb, struct packet *packet)
{
	__u32 chosen = interface_index(skb->ifindex), index, ways;
	struct originated_tuple *record = find_originated(packet->digest);
	const struct settings *settings = get_settings();
	struct scratch *to = get_scratch();
	const struct interface *interface;
	struct flow *flow;
	__u64 decision;

	if (!settings || !to || !record || !tuple_equal(&record->tuple, &packet->tuple))
		return NULL;
	ways = *(volatile __u32 *)&settings->ways;
	decision = read_decision(record, packet);
	if (!ways || decision >> DECIDED_WAYS_SHIFT != ways)
		return NULL;
	interface = interface_of(decision >> DECIDED_INTERFACE_SHIFT & 0xffff, &index);
	if (!interface || is_for_group(packet) || !is_hosts_frame(skb, chosen))
		return NULL;
	refresh_originated(record, packet, chosen, index);
	flow = begin_flow(to, packet, interface, index, record);
	take_next_hop(decision, flow);
	to->packet.settled = obstacle(interface, flow);
	packet->settled = *(volatile __u8 *)&to->packet.settled; /* the verifier need not follow each value */
	return flow;
}

/*
 * Makes the scratch flow of the scratch packet, which was parsed with this result: what its source wants is what a flow
 * would. Returns whether the source is heeded. A later fragment has no ports, and thus another tuple than the record:
 * for those the exclusions may say otherwise.
 */
__noinline int originate(struct __sk_buff *skb, __u32 result)
{
	__u32 chosen = interface_index(skb->ifindex), index, ways;
	const struct settings *settings = get_settings();
	struct scratch *from = get_scratch();
	const struct interface *interface;
	struct originated_tuple *record;
	struct packet *packet;
	bool is_own_record;
	struct flow *flow;

	if (!from || !settings)
		return false;
	packet = &from->packet;
	if (result == PARSED_FRAGMENT && !take_over_first(from))
		return false;
	if (result == PARSED_ERROR) { /* of no flow's tuple: it has no ports */
		packet->tuple.protocol = packet->protocol;
		packet->digest = digest(&packet->tuple, packet->family);
	}
	ways = *(volatile __u32 *)&settings->ways;
	interface = source_interface(packet, &index);
	if (!interface || is_for_group(packet) || !is_hosts_frame(skb, chosen) || !is_heeded(settings, packet))
		return false;
	record = find_originated(packet->digest);
	is_own_record = record && tuple_equal(&record->tuple, &packet->tuple);
	if (record) {
		refresh_originated(record, packet, chosen, index);
	} else if (result != PARSED_FRAGMENT) {
		record = record_originated(from, chosen, index);
		is_own_record = record;
	}
	flow = begin_flow(from, packet, interface, index, record);
	choose_gateway(packet, interface, flow);
	if (is_own_record)
		note_decision(record, packet, flow, ways);
	if (!packet->settled || !(interface->flags & INTERFACE_STRONG))
		packet->settled = obstacle(interface, flow);
	return true;
}

/*
 * The flow of what this host originates by the address of another interface than the kernel chose; NULL for all else.
 * It is in no table.
 */
static __noinline struct flow *originated_flow(struct __sk_buff *skb, struct packet *packet, enum parsed result,
					       enum table *table)
{
	struct flow *flow = result == PARSED ? decided_flow(skb, packet) : NULL;
	struct scratch *from;

	*table = TABLE_ORIGINATED;
	if (likely(flow))
		return flow;
	from = put_in_scratch(packet);
	if (!from || !originate(skb, result))
		return NULL;
	packet->digest = from->packet.digest;
	packet->protocol = from->packet.protocol;
	packet->settled = from->packet.settled;
	return &from->flow;
}

/*
 * Whether the source would have a packet moved that the kernel has no interface for: see gate.h. A neighbour of an
 * interface without a gateway is left out, as are exclusions.
 */
static inline bool is_moved_by_source(const struct packet *packet)
{
	const struct interface *interface;
	__u32 index, gateway;
	mac_word mac;

	interface = source_interface(packet, &index);
	if (!interface || !(interface->flags & INTERFACE_STRONG) || !(interface->flags & INTERFACE_UP) ||
	    !is_enforced(interface))
		return false;
	gateway = packet->family == 4 ? interface->first_gateway4 : interface->first_gateway6;
	return interface->flags & INTERFACE_NO_HEADER ||
	       gateway_mac(gateway_of_source(packet, gateway), interface->ifindex, &mac);
}
