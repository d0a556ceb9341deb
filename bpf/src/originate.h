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
 * same wire. The answer is kept in mind, on each CPU: it is the same for all but a few.
 */
static inline bool suits_source(const struct __sk_buff *skb, const struct packet *packet)
{
	const __u64 *self = (const __u64 *)packet->tuple.self;
	const struct settings *settings = get_settings();
	struct scratch *scratch = get_scratch();
	const struct interface *interface;
	struct admitted *last;
	__u32 index, generation;

	if (!settings || !scratch)
		return true;
	_Static_assert(SETTLED_SOURCES == 1 << (64 - 58), "the index has 6 bits");
	last = &scratch->settled[(self[0] ^ self[1]) * DIGEST_MULTIPLIER >> 58];
	generation = *(volatile __u32 *)&settings->generation;
	if (likely(last->self[0] == self[0] && last->self[1] == self[1] && last->ifindex == skb->ifindex &&
		   last->generation == generation))
		return true;
	interface = source_interface(packet, &index);
	if (interface && interface->ifindex != skb->ifindex && interface->lower != skb->ifindex)
		return false;
	if (index && !interface) /* it is gone, or not told of yet */
		return true;
	*last = (struct admitted){ { self[0], self[1] }, skb->ifindex, generation };
	return true;
}

static inline bool has_source(enum parsed result)
{
	return result == PARSED || result == PARSED_ERROR || result == PARSED_FRAGMENT;
}

/* Whether the packet is of those whose source is heeded: what could be a flow, were it a reply. */
static inline bool is_heeded(const struct packet *packet)
{
	const struct settings *settings = get_settings();

	return settings && is_listed(settings, packet->protocol) && !is_dhcp(&packet->tuple) &&
	       !(packet->mac[0] & 1) && refusal_of_ends() == EVENT_END;
}

/*
 * Whether the frame is one that the host itself sends by this interface: those of guests on devices above it (macvtap)
 * pass here as well, with MACs of their own, whatever address they have.
 */
static inline bool is_hosts_frame(struct __sk_buff *skb, __u32 index)
{
	const struct interface *interface = bpf_map_lookup_elem(&interfaces, &index);
	__u8 source[ETH_ALEN];

	if (!index || !interface || interface->flags & INTERFACE_NO_HEADER)
		return true;
	return !bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), source, sizeof(source)) &&
	       mac_equal(source, interface->mac);
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

/*
 * Chooses the next hop by this interface: the peer itself, where it is a neighbour; else the gateway that a route names
 * for it, the only one, or the first of several; else none. A tunnel needs none.
 */
static inline void choose_gateway(const struct packet *packet, const struct interface *interface, struct flow *flow)
{
	__u32 first = packet->family == 4 ? interface->first_gateway4 : interface->first_gateway6;
	__u32 gateway = first;

	if (interface->flags & INTERFACE_NO_HEADER)
		return;
	if (on_link_flags_of(packet->tuple.peer, interface->ifindex) & ON_LINK_ROUTED)
		flow->flags = FLOW_ON_LINK;
	else if (is_served(packet, interface, interface->ifindex, &gateway))
		flow->gateway = gateway ? gateway : first;
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

/* Makes a record of the tuple with the scratch packet's digest; NULL where there is no room. */
static inline struct originated_tuple *record_originated(const struct packet *packet, __u16 from, __u16 to)
{
	struct originated_tuple fresh = {};
	__u32 time = now();

	fresh.tuple = packet->tuple;
	fresh.created = fresh.seen = time;
	fresh.from = from;
	fresh.to = to;
	/* Another CPU may be first: only the lookup tells. */
	bpf_map_update_elem(&originated, &packet->digest, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&originated, &packet->digest);
}

/*
 * Whether what was decided for the scratch packet's tuple holds, where the kernel chose this interface: nothing has
 * changed since that it depends on.
 */
static inline bool still_holds(const struct originated_tuple *record, const struct packet *packet, __u32 from, __u32 ways)
{
	return ways && record->ways == ways && record->from == from && tuple_equal(&record->tuple, &packet->tuple);
}

/* Decides for the scratch packet's tuple, and notes it. `ways` is as it was before anything was read. */
static inline void decide(struct originated_tuple *record, const struct packet *packet, const struct interface *interface,
			  struct flow *flow, __u32 from, __u32 to, __u32 ways)
{
	choose_gateway(packet, interface, flow);
	if (!record)
		return;
	record->ways = 0; /* another CPU that reads meanwhile decides for itself */
	barrier();
	record->from = from;
	record->to = to;
	record->gateway = flow->gateway;
	record->flags = flow->flags;
	barrier();
	record->ways = ways;
}

/*
 * Makes the scratch flow of the scratch packet, which was parsed with this result: what its source wants is what a flow
 * would. Returns whether the source is heeded.
 */
__noinline int originate(struct __sk_buff *skb, __u32 result)
{
	const struct settings *settings = get_settings();
	struct scratch *from = get_scratch();
	__u32 chosen = interface_index(skb->ifindex), index, ways;
	const struct interface *interface;
	struct originated_tuple *record;
	struct packet *packet;
	struct flow *flow;
	bool holds;

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
	record = bpf_map_lookup_elem(&originated, &packet->digest);
	holds = record && still_holds(record, packet, chosen, ways);
	interface = holds ? interface_of(record->to, &index) : source_interface(packet, &index);
	if (!interface || !is_hosts_frame(skb, chosen) || (!holds && !is_heeded(packet)))
		return false;
	if (!record)
		record = record_originated(packet, chosen, index);
	flow = &from->flow;
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->tuple = packet->tuple;
	flow->ifindex = interface->ifindex;
	flow->interface = index;
	if (record) {
		if (age_at(record->seen, now()))
			record->seen = now();
		flow->told = record->told;
	}
	if (holds) {
		flow->gateway = record->gateway;
		flow->flags = record->flags;
	} else {
		decide(record, packet, interface, flow, chosen, index, ways);
	}
	if (!(interface->flags & INTERFACE_STRONG))
		packet->settled = OUTCOME_WEAK_HOST;
	else if (!packet->settled && !has_next_hop(interface, flow))
		packet->settled = OUTCOME_NO_NEXT_HOP;
	return true;
}

/*
 * The flow of what this host originates by the address of another interface than the kernel chose; NULL for all else.
 * It is in no table.
 */
static __noinline struct flow *originated_flow(struct __sk_buff *skb, struct packet *packet, enum parsed result,
					       enum table *table)
{
	struct scratch *from = put_in_scratch(packet);

	if (!from || !originate(skb, result))
		return NULL;
	packet->digest = from->packet.digest;
	packet->protocol = from->packet.protocol;
	packet->settled = from->packet.settled;
	*table = TABLE_ORIGINATED;
	return &from->flow;
}

/*
 * Whether the source would have a datagram moved that the kernel has no interface for: see gate.h. A neighbour of an
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
	return interface->flags & INTERFACE_NO_HEADER || gateway_mac(gateway, interface->ifindex, &mac);
}
