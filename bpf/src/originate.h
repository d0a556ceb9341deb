/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What this host originates: sent or forwarded by it with an own address as source, and no reply of a recorded flow
 * (docs/design/host-model.md; RFC 1122, 3.3.4.2).
 */
#pragma once

#include "admission.h"
#include "portless.h"
#include "socket.h"

/* The flow with this digest in this table, if it goes on and has the ends of a tuple. */
static inline struct flow *open_flow(__u64 digest, enum table table, const struct tuple *tuple)
{
	struct flow *flow = digest ? find_digest(digest, table) : NULL;

	return flow && !is_closing(flow) && !(flow->flags & FLOW_AS_ROUTED) && !is_idle(flow, table) && has_ends_of(flow, tuple)
		? flow : NULL;
}

/* The flow by which the peer asked last, if the tuple has its own port, or soon after that the peer's. */
static inline struct flow *asked_by(const struct tuple *tuple)
{
	const struct lead *last = tuple->protocol == IPPROTO_UDP ? find_lead(lead_key(LEAD_ENDS, tuple, 0)) : NULL;
	struct flow *flow = last ? open_flow(last->digest, TABLE_CONNECTIONLESS, tuple) : NULL;

	return flow && (flow->tuple.self_port == tuple->self_port ||
			(flow->tuple.peer_port == tuple->peer_port && age(flow->seen) <= seconds(IDLE_QUESTION))) ? flow : NULL;
}

/*
 * Leaves in the scratch the path by which the peer of the scratch flow comes; false where none is proven. The caller
 * puts that of the peer's answers there, the last of which was `heard` then: from these, datagrams of a flow take
 * nothing, as they may be forged (docs/design/host-model.md).
 */
__noinline int related_path(__u64 digest, __u32 table, __u32 heard)
{
	struct scratch *scratch = get_scratch();
	const struct flow *flow = open_flow(digest, table, &scratch->flow.tuple);

	if ((!flow || table == TABLE_CONNECTIONLESS) && scratch->path.ifindex &&
	    age(heard) <= seconds(flow ? IDLE_CONNECTIONLESS : IDLE_OUTBOUND))
		return true;
	if (!flow)
		flow = asked_by(&scratch->flow.tuple);
	if (flow)
		__builtin_memcpy(&scratch->path, &flow->ifindex, sizeof(scratch->path));
	return flow && has_ends_of(flow, &scratch->flow.tuple);
}

/* Whether a flow takes the place of the one that a pair goes with: docs/design/host-model.md. */
static inline bool takes_place(const struct record *record, const struct flow *flow, enum table table)
{
	const struct flow *other = open_flow(record->flow, record->table, &flow->tuple);

	if (!other || (table == TABLE_ESTABLISHED && record->table == TABLE_CONNECTIONLESS))
		return true;
	return table == record->table && other->interface != flow->interface &&
	       flow->interface == own_address(flow->tuple.self) >> OWN_INTERFACE_SHIFT;
}

/* A flow begins, or has gone on for a second. What that proves of its peer's path: docs/design/host-model.md. */
__noinline int relate(__u64 digest, __u32 table)
{
	struct flow *flow = find_digest(digest, table);
	struct scratch *scratch = get_scratch();
	const struct lead *last;
	struct record *record;
	__u64 ends;

	if (!flow || flow->flags & (table == TABLE_CONNECTIONLESS ? FLOW_NO_SOCKET | FLOW_AS_ROUTED : FLOW_AS_ROUTED))
		return 0;
	if (flow->tuple.protocol == IPPROTO_UDP) {
		ends = lead_key(LEAD_ENDS, &flow->tuple, 0);
		last = find_lead(ends);
		if (!last || last->digest != digest)
			enter_lead(ends, digest, table, 0, IPPROTO_UDP);
	}
	if (table == TABLE_CONNECTIONLESS && (!(flow->state & FLOW_REPLIED) || is_ping(flow)))
		return 0;
	record = bpf_map_lookup_elem(&originated, &flow->tuple);
	if (!record) {
		scratch->record = (struct record){ .flow = digest, .table = table };
		bpf_map_update_elem(&originated, &flow->tuple, &scratch->record, BPF_NOEXIST);
	} else if (record->flow != digest && takes_place(record, flow, table)) {
		record->table = table;
		record->flow = digest;
	}
	return 0;
}

/* Whether a connectionless flow was answered, and is asked again. The kernel answers anybody's pings. */
static inline bool becomes_assured(const struct flow *flow)
{
	return (flow->state & FLOW_REPLIED) && !(flow->flags & (FLOW_ASSURED | FLOW_CROWDED)) && !is_ping(flow);
}

/* It does, if its bucket has less than the share of conversations, which anybody can forge. Returns the flow's entry. */
static __noinline struct flow *assure(struct scratch *scratch, struct flow *flow)
{
	__u64 digest = scratch->packet.digest;

	if (may_be_assured(digest)) {
		if (set_kind(digest, KINDS_CONNECTIONLESS, KIND_ASSURED, 0, FLOW_ASSURED))
			return flow;
		if (!copy_flow(&scratch->flow, flow, &scratch->packet))
			return NULL;
		scratch->flow.flags |= FLOW_ASSURED; /* it stands in the last place */
		if (put_flow(digest, KIND_ASSURED, KINDS_CONNECTIONLESS))
			return get_cell(scratch->put.place);
	}
	flow->flags |= FLOW_CROWDED;
	return flow;
}

/*
 * Once a second the next hop is chosen anew: gateways may be known by now, and the ifindex another's. What goes on so
 * long proves the path of its peer. Returns the entry that the flow has from now on.
 */
static __noinline struct flow *refresh(struct __sk_buff *skb, struct scratch *scratch, struct flow *flow, enum table table)
{
	bool due = is_due(flow);

	if (due) {
		flow->seen = now();
		renew_place(scratch->packet.digest, kinds_of(table));
		flow->flags &= ~(FLOW_ACTIVE | FLOW_CROWDED | FLOW_ALTERNATES); /* if they go on in turn, that is set again */
	} else {
		set_active(flow);
	}
	if (table == TABLE_CONNECTIONLESS && becomes_assured(flow))
		flow = assure(scratch, flow);
	if (!due || !flow)
		return flow;
	/* A connection keeps its way. */
	flow = set_path(skb, scratch, flow, table, table == TABLE_CONNECTIONLESS ? LEARNT_WAY : flow->flags & FLOW_WAY);
	relate(scratch->packet.digest, table);
	return flow;
}

/*
 * The scratch packet answers what the host began, and shows by which path its peer comes (docs/design/host-model.md).
 * Returns whether nothing more is to be learnt this second.
 */
__noinline int relate_answer(struct __sk_buff *skb)
{
	struct scratch *scratch = get_scratch();
	bool is_tcp = scratch->packet.protocol == IPPROTO_TCP, is_same;
	enum verdict verdict = is_tcp ? ask_socket(skb) : VERDICT_OPENED;
	struct record *record, *fresh = &scratch->record;
	const struct path *known = &fresh->answered, *path = &scratch->path;

	if (verdict == VERDICT_OPENING || verdict == VERDICT_REFUSED)
		return false;
	if (verdict == VERDICT_ACCEPTED) { /* a guest with the host's address has sent that SYN (macvtap) */
		forget(scratch->packet.digest, 1 << KIND_NOTE);
		return false;
	}
	if (verdict != VERDICT_OPENED || !find_way_back(skb, LEARNT_WAY) || path->flags & FLOW_AS_ROUTED)
		return true;
	record = bpf_map_lookup_elem(&originated, &scratch->packet.tuple);
	*fresh = record ? *record : (struct record){};
	is_same = record && known->ifindex == path->ifindex && known->gateway == path->gateway &&
		  (mac_equal(known->mac, path->mac) || (path->gateway && !((known->flags | path->flags) & FLOW_LAST_HOP)));
	if (is_same && known->flags == path->flags) {
		record->heard = now();
		return true;
	}
	if (record && !is_tcp && !is_same && age(record->heard) <= seconds(IDLE_CONNECTIONLESS) &&
	    is_usable(known->interface, known->ifindex))
		return true;
	fresh->answered = *path;
	fresh->heard = now();
	bpf_map_update_elem(&originated, &scratch->packet.tuple, fresh, BPF_ANY);
	return true;
}

/* Whether the packet leaves by the interface of its source, if it has one. A macvlan on it is the same wire. */
static inline bool suits_source(const struct __sk_buff *skb, const struct packet *packet)
{
	const struct known_self *source = self_of(packet);

	return likely(source->ifindex == skb->ifindex) || !source->ifindex || source->lower == skb->ifindex;
}

/* Whether the packet is of those whose source is heeded: what could be a flow, were it a reply, as far as its ports tell. */
static inline bool is_heeded(const struct packet *packet)
{
	if (!is_recorded(packet))
		return false;
	if (likely(!configuration.exclusions[configuration.in_force % EXCLUSION_SETS].count))
		return true;
	put_in_scratch(packet);
	return !is_excluded();
}

/* Whether the host itself sends the frame: those of guests above (macvtap) have MACs of their own, whatever address. */
static inline bool is_hosts_frame(struct __sk_buff *skb, const struct interface *interface)
{
	const __u8 *source;

	if (!interface || interface->flags & INTERFACE_NO_HEADER)
		return true;
	source = peek(skb, offsetof(struct ethhdr, h_source), ETH_ALEN);
	return source && mac_equal(source, interface->mac);
}

/* The next hop by the interface of a source (docs/design/host-model.md; RFC 8028); 0 for none. */
static inline __u32 choose_gateway(const struct packet *packet, const struct interface *interface)
{
	__u32 first = packet->family == 4 ? interface->first_gateway4 : interface->first_gateway6;
	__u32 gateway = first;
	const __u32 *its;

	_Static_assert(MAX_GATEWAYS <= ON_LINK_HOP, "no gateway has its number");
	if (interface->flags & INTERFACE_NO_HEADER)
		return 0;
	if (on_link_flags_of(packet, interface->ifindex) & ON_LINK_ROUTED)
		return ON_LINK_HOP;
	if (!is_served(packet, interface, &gateway))
		return 0;
	if (gateway)
		return gateway;
	its = find_prefix(packet->family, packet->tuple.self, 16, PREFIX_SOURCE, 0);
	return its ? *its : first;
}

/*
 * Decides for the addresses of the scratch packet; returns whether there is a record. That is replaced whole, as its
 * memory may have become another pair's (docs/design/host-model.md).
 */
__noinline int originate(void)
{
	__u32 generation = *(volatile __u32 *)&configuration.routing_generation;
	struct scratch *scratch = get_scratch();
	const struct packet *packet = &scratch->packet;
	const struct interface *interface = interface_of(own_address(packet->tuple.self) >> OWN_INTERFACE_SHIFT);
	struct record *record, *fresh = &scratch->record;

	if (!interface || own_address(packet->tuple.peer) || !address_is_ordinary(packet->tuple.peer) ||
	    !address_is_ordinary(packet->tuple.self))
		return false;
	record = bpf_map_lookup_elem(&originated, &packet->tuple);
	*fresh = record ? *record : (struct record){};
	if (!fresh->to)
		fresh->created = now();
	fresh->to = interface->id;
	fresh->hop = choose_gateway(packet, interface);
	fresh->generation = generation; /* which was read before all else */
	return !bpf_map_update_elem(&originated, &packet->tuple, fresh, BPF_ANY);
}

/* The record of the packet's addresses, with a decision of the present routing generation; NULL where there is none. */
static inline struct record *decided(const struct packet *packet)
{
	struct record *record = bpf_map_lookup_elem(&originated, &packet->tuple);
	__u32 generation = *(volatile __u32 *)&configuration.routing_generation;

	if (likely(record && generation && record->generation == generation))
		return record;
	put_in_scratch(packet);
	return originate() ? bpf_map_lookup_elem(&originated, &packet->tuple) : NULL;
}

/* Notes by which interface the kernel sent the packet, and when. */
static inline void refresh_originated(struct record *record, const struct packet *packet, __u16 from,
				      enum parsed result)
{
	__u32 time = now();

	if (unlikely(record->from != from))
		record->from = from;
	if (likely(record->seen == time))
		return;
	record->seen = time;
	if (result != PARSED)
		return;
	record->peer_port = packet->tuple.peer_port;
	record->self_port = packet->tuple.self_port;
	record->protocol = packet->protocol;
}

/* Gives the scratch flow the path by the source. Returns whether the packet is to leave by that. */
static inline bool choose_path(const struct record *record, const struct interface *interface, struct scratch *scratch,
			       enum table *table)
{
	__u16 hop = record->hop;
	bool is_strong = interface->flags & INTERFACE_STRONG;
	bool is_decided = is_strong && (hop || interface->flags & INTERFACE_NO_HEADER);
	struct path path = { .ifindex = interface->ifindex, .interface = interface->id, .gateway = hop };

	*table = TABLE_ORIGINATED;
	path.flags = hop == ON_LINK_HOP ? FLOW_ON_LINK : FLOW_NEXT_HOP_GATEWAY;
	scratch->path = record->answered;
	if (!is_decided && (is_strong || configuration.related) &&
	    related_path(record->flow, record->table, record->heard) && scratch->path.interface == interface->id) {
		*table = TABLE_RELATED;
		path = scratch->path;
		path.flags &= FLOW_NEXT_HOP_GATEWAY | FLOW_LAST_HOP;
	}
	__builtin_memcpy(&scratch->flow.ifindex, &path, sizeof(path));
	return is_strong || *table == TABLE_RELATED;
}

/*
 * The record of what this host originates by the address of another interface than the kernel chose; NULL for all else.
 * The scratch flow, which is in no table, then has the path.
 */
static __noinline struct record *originated_by(struct __sk_buff *skb, struct packet *packet, enum parsed result,
						   enum table *table)
{
	const struct interface *interface, *chosen = interface_at(skb->ifindex);
	struct scratch *scratch = get_scratch();
	struct record *record;

	if (packet->mac[0] & 1 /* of a group */ || !is_hosts_frame(skb, chosen) ||
	    (result == PARSED_FRAGMENT && *table < TABLE_ORIGINATED))
		return NULL;
	packet->tuple.protocol = packet->protocol; /* an ICMP error has no other */
	record = is_heeded(packet) ? decided(packet) : NULL;
	interface = record ? interface_of(record->to) : NULL;
	if (!interface)
		return NULL;
	refresh_originated(record, packet, id_of(chosen), result);
	scratch->flow.tuple = packet->tuple;
	scratch->flow.state = 0;
	if (!choose_path(record, interface, scratch, table))
		packet->settled = OUTCOME_WEAK_HOST;
	return record;
}
