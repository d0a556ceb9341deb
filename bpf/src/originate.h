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

/* The record of a tuple's addresses; NULL for none. */
static __noinline struct record *find_record(const struct tuple *tuple)
{
	struct flow *cell = get_cell(find_place(ends_digest(tuple), KINDS_RECORD));

	_Static_assert(sizeof(struct record) <= sizeof(struct flow), "a cell");
	_Static_assert(offsetof(struct record, seen) == offsetof(struct flow, seen), "a time for a time");
	_Static_assert(offsetof(struct record, path) == offsetof(struct flow, ifindex), "compared as a flow's");
	_Static_assert(offsetof(struct record, moved) == offsetof(struct flow, corrected), "a count for a count");
	_Static_assert(offsetof(struct record, heard) == offsetof(struct flow, created), "a time for a time");
	_Static_assert(offsetof(struct record, peer_port) == offsetof(struct flow, left), "ports for a time");
	return cell && has_ends_of(cell, tuple) ? (struct record *)cell : NULL;
}

/* What put_record() enters: a copy of the record of a tuple's addresses, or an empty one where there is none. */
static __noinline struct record *copy_record(const struct record *record, const struct tuple *tuple)
{
	struct record *fresh = (struct record *)&get_scratch()->flow;

	if (record) {
		*fresh = *record;
		record = after_reading(record, (const __u64 *)fresh, sizeof(*fresh) / sizeof(__u64));
	}
	if (!record || !has_ends_of((const struct flow *)record, tuple)) { /* its memory has become another's meanwhile */
		*fresh = (struct record){};
		__builtin_memcpy(fresh, tuple, offsetof(struct record, flow));
	}
	return fresh;
}

static inline bool put_record(void)
{
	const struct record *fresh = (struct record *)&get_scratch()->flow;
	bool by_host = fresh->to || fresh->proof & PROOF_ANSWERS;

	return put_flow(ends_digest((const struct tuple *)fresh),
			by_host ? KIND_RECORD : fresh->proof & PROOF_CONNECTION ? KIND_COMER : KIND_ASKER, KINDS_RECORD);
}

static inline void heard_again(struct record *record)
{
	record->heard = now();
	set_kind(ends_digest((const struct tuple *)record), KINDS_RECORD, KIND_FREE, 0, 0);
}

/* The flow that shows a record's path, if it goes on. */
static inline struct flow *shown_by(const struct record *record, const struct tuple *tuple)
{
	return open_flow(record->flow, record->proof & PROOF_CONNECTION ? TABLE_ESTABLISHED : TABLE_CONNECTIONLESS, tuple);
}

/* Where the digest of the last connection of a tuple's addresses stands, or of their last question by UDP. */
static inline __u64 *recent_of(const struct tuple *tuple, bool is_question)
{
	__u32 index = (ends_digest(tuple) >> 32 & (RECENT - 1)) | (is_question ? RECENT : 0);

	return bpf_map_lookup_elem(&recent, &index);
}

/* The connection that began last with these addresses, or has ended since. */
static inline struct flow *recent_connection(const struct tuple *tuple)
{
	const __u64 *last = recent_of(tuple, false);
	struct flow *flow = last ? find_digest(*last, TABLE_ESTABLISHED) : NULL;

	return flow && has_ends_of(flow, tuple) && !(flow->flags & FLOW_AS_ROUTED) &&
	       age(flow->seen) <= seconds(is_closing(flow) ? IDLE_CALL : IDLE_ESTABLISHED) ? flow : NULL;
}

/*
 * The question that a datagram of this tuple may answer: another socket does so by the port that was asked, or soon after to the
 * port of one that was asked there.
 */
static inline struct flow *recent_question(const struct tuple *tuple)
{
	const __u64 *last = tuple->protocol == IPPROTO_UDP ? recent_of(tuple, true) : NULL;
	struct flow *flow = last ? open_flow(*last, TABLE_CONNECTIONLESS, tuple) : NULL;
	struct tuple asked = *tuple;

	if (!flow || flow->tuple.self_port == tuple->self_port)
		return flow;
	asked.self_port = flow->tuple.self_port;
	flow = open_flow(digest(&asked, address_is_v4(asked.self) ? 4 : 6), TABLE_CONNECTIONLESS, tuple);
	return flow && flow->tuple.peer_port == tuple->peer_port && age(flow->seen) <= seconds(IDLE_QUESTION) ? flow : NULL;
}

/* Whether a copied path is not half of one and half of another that was written meanwhile, as ifindex goes first. */
static inline bool is_whole(const struct path *copy, const struct flow *cell)
{
	return *(const volatile __u64 *)&cell->ifindex == *(const __u64 *)copy;
}

/* Whether what a record's own path was shown by still counts. */
static inline bool is_shown(const struct record *record)
{
	return record->proof >= PROOF_ANSWERS && age(record->heard) <= seconds(record->proof & PROOF_ANSWERS ? IDLE_OUTBOUND : IDLE_CALL);
}

/* The flow by whose path the peer of the tuple comes to the interface of the record; NULL for none. */
static inline struct flow *related_flow(const struct record *record, const struct tuple *tuple)
{
	struct flow *flow = record->proof ? shown_by(record, tuple) : NULL;

	if (!flow || flow->interface != record->to)
		flow = recent_connection(tuple);
	if (!flow && !is_shown(record)) /* else the peer comes by another interface */
		flow = recent_question(tuple);
	return flow;
}

/* Leaves in the scratch the path by which the peer of the scratch flow comes to the record's interface; false where none is known. */
__noinline int find_related(void)
{
	struct scratch *scratch = get_scratch();
	const struct tuple *tuple = &scratch->flow.tuple;
	const struct record *kept = find_record(tuple), *record = kept && kept->to ? kept : &scratch->record;
	const struct flow *flow = shown_by(record, tuple), *cell;
	bool is_own = record->path.interface == record->to && is_shown(record);

	/* Fresh answers go before datagrams, which may be forged. */
	is_own &= !flow || (!(record->proof & PROOF_CONNECTION) && age(record->heard) <= seconds(IDLE_CONNECTIONLESS));
	cell = is_own ? (const struct flow *)record : related_flow(record, tuple);

	if (!cell)
		return false;
	__builtin_memcpy(&scratch->path, path_of(cell), sizeof(scratch->path));
	cell = after_reading(cell, (const __u64 *)&scratch->path, sizeof(scratch->path) / sizeof(__u64));
	return has_ends_of(cell, tuple) && is_whole(&scratch->path, cell) && scratch->path.interface == record->to;
}

/* Whether anything goes as answers to its peer go, from an address of this interface. */
static inline bool has_relations(const struct interface *interface)
{
	return interface && (configuration.related || interface->flags & INTERFACE_STRONG);
}

/* Whether the scratch packet's flow came by the interface of its own address, and shows by which path the peer comes to that. */
static inline bool shows_path(const struct flow *flow)
{
	return !(flow->flags & FLOW_AS_ROUTED) && self_of(scratch_packet())->own >> OWN_INTERFACE_SHIFT == flow->interface &&
	       has_relations(get_interface(flow->interface, flow->ifindex));
}

/* The scratch flow is the scratch packet's, and begins: a connection, or a question by UDP that somebody here takes. */
static __noinline void begin_relation(struct scratch *scratch, bool is_question)
{
	const struct packet *packet = &scratch->packet;
	__u64 *last = shows_path(&scratch->flow) && (!is_question || packet->protocol == IPPROTO_UDP) ?
		      recent_of(&packet->tuple, is_question) : NULL;

	if (last && *last != packet->digest)
		*last = packet->digest;
}

/* Whether what a flow shows takes the place of what another has shown: docs/design/host-model.md. */
static inline bool takes_place(const struct record *record, const struct flow *flow, enum proof proof)
{
	__u32 limit = record->proof & PROOF_CONNECTION ? IDLE_CALL : record->proof & PROOF_ANSWERS ? IDLE_CONNECTIONLESS : 0;
	bool is_alike = record->proof < 2 * proof; /* by the best of what shows it */
	const struct flow *other;

	if (proof > record->proof || (is_alike && record->flow == scratch_packet()->digest))
		return true;
	other = shown_by(record, &scratch_packet()->tuple);
	if (other)
		return is_alike && other->interface != flow->interface;
	return is_alike || age(record->heard) > seconds(limit);
}

/*
 * The scratch packet's flow has gone on for a second. What that shows of its peer's path is kept, if the kernel sends to that peer
 * by another interface, as far as replies have told.
 */
__noinline int relate(__u32 table)
{
	enum proof proof = table == TABLE_ESTABLISHED ? PROOF_CONNECTION : PROOF_CONVERSATION;
	const struct packet *packet = scratch_packet();
	struct flow *flow = find_digest(packet->digest, table);
	struct record *record, *fresh;
	bool is_same;

	if (!flow || !(flow->state & FLOW_ASYMMETRIC) || flow->flags & FLOW_ON_TRIAL || !shows_path(flow))
		return 0;
	record = find_record(&packet->tuple);
	is_same = record && has_path_of((struct flow *)record, flow);
	if (record && ((is_same && record->proof >= proof && age(record->heard) < seconds(1)) || !takes_place(record, flow, proof)))
		return 0;
	if (is_same && record->proof & proof && record->flow == packet->digest) {
		heard_again(record);
		return 0;
	}
	fresh = copy_record(record, &packet->tuple);
	__builtin_memcpy(&fresh->path, path_of(flow), sizeof(fresh->path));
	flow = (struct flow *)after_reading(flow, (const __u64 *)&fresh->path, sizeof(fresh->path) / sizeof(__u64));
	if (!tuple_equal(&flow->tuple, &packet->tuple) || !is_whole(&fresh->path, flow))
		return 0;
	fresh->path.flags &= FLOW_HOP;
	fresh->flow = packet->digest;
	fresh->proof = proof | (is_same ? fresh->proof & PROOF_ANSWERS : 0);
	fresh->heard = now();
	put_record();
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
 * Once a second, as `due`, the next hop is chosen anew: gateways may be known by now, and the ifindex another's. Returns the
 * entry that the flow has from now on.
 */
static __noinline struct flow *renew(struct __sk_buff *skb, struct scratch *scratch, struct flow *flow, enum table table,
				     bool due)
{
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
	return set_path(skb, scratch, flow, table, table == TABLE_CONNECTIONLESS ? LEARNT_WAY : flow->flags & FLOW_WAY);
}

/* What goes on for a second shows the path of its peer. */
static inline struct flow *refresh(struct __sk_buff *skb, struct scratch *scratch, struct flow *flow, enum table table)
{
	bool due = is_due(flow);

	flow = renew(skb, scratch, flow, table, due);
	if (!due || !flow)
		return flow;
	if (table == TABLE_ESTABLISHED || flow->state & FLOW_REPLIED) {
		if (table == TABLE_ESTABLISHED || !(flow->flags & FLOW_NO_SOCKET || is_ping(flow)))
			relate(table);
	} else if (!(flow->flags & FLOW_NO_SOCKET)) {
		begin_relation(scratch, true); /* of which renew() has left a copy */
	}
	return flow;
}

static inline bool is_same_way(const struct path *known, const struct path *path)
{
	return known->ifindex == path->ifindex && known->gateway == path->gateway &&
	       (mac_equal(known->mac, path->mac) || (path->gateway && !((known->flags | path->flags) & FLOW_LAST_HOP)));
}

/*
 * Whether an answer by this path takes the place of what another has shown. Any but TCP's may be forged, and takes it from no
 * conversation that goes on by the interface of the address, `owner`.
 */
static inline bool gives_way(const struct record *record, const struct packet *packet, const struct path *path, __u32 owner)
{
	const struct flow *flow = shown_by(record, &packet->tuple);
	bool is_tcp = packet->protocol == IPPROTO_TCP;

	if (flow && record->proof & PROOF_CONNECTION)
		return false;
	if (flow && record->proof == PROOF_CONVERSATION && flow->interface == owner)
		return is_tcp || path->interface == owner;
	return record->proof < PROOF_ANSWERS || is_tcp || is_same_way(&record->path, path) ||
	       age(record->heard) > seconds(record->proof & PROOF_CONNECTION ? IDLE_CALL : IDLE_CONNECTIONLESS) ||
	       !is_usable(record->path.interface, record->path.ifindex);
}

/*
 * The scratch packet answers what the host began, and shows by which path its peer comes (docs/design/host-model.md).
 * Returns whether nothing more is to be learnt this second.
 */
__noinline int relate_answer(struct __sk_buff *skb)
{
	struct scratch *scratch = get_scratch();
	const struct packet *packet = &scratch->packet;
	enum verdict verdict = packet->protocol == IPPROTO_TCP ? ask_socket(skb) : VERDICT_OPENED;
	const struct path *path = &scratch->path;
	struct record *record, *fresh;
	bool is_same;
	__u32 owner;

	if (verdict == VERDICT_OPENING || verdict == VERDICT_REFUSED)
		return false;
	if (verdict == VERDICT_ACCEPTED) { /* a guest with the host's address has sent that SYN (macvtap) */
		forget(packet->digest, 1 << KIND_NOTE);
		return false;
	}
	owner = self_of(packet)->own >> OWN_INTERFACE_SHIFT;
	if (verdict != VERDICT_OPENED || !find_way_back(skb, LEARNT_WAY) || path->flags & FLOW_AS_ROUTED ||
	    !has_relations(interface_of(owner)))
		return true;
	record = find_record(&packet->tuple);
	if (!record) /* nothing left by another interface than that of its source */
		return true;
	is_same = is_same_way(&record->path, path) && record->path.flags == path->flags;
	if (is_same && record->proof & PROOF_ANSWERS) {
		heard_again(record);
	} else if ((is_same && record->proof & PROOF_CONNECTION) || gives_way(record, packet, path, owner)) {
		fresh = copy_record(record, &packet->tuple);
		fresh->proof = PROOF_ANSWERS | (is_same ? fresh->proof & PROOF_CONNECTION : 0);
		fresh->flow = is_same ? fresh->flow : 0;
		fresh->path = *path;
		fresh->heard = now();
		put_record();
	}
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
 * Decides for the addresses of the scratch packet, in a record that the scratch has too; returns whether there is one. It is
 * replaced whole, as its memory may have become another's (docs/design/host-model.md).
 */
__noinline int originate(void)
{
	__u32 generation = *(volatile __u32 *)&configuration.routing_generation;
	struct scratch *scratch = get_scratch();
	const struct packet *packet = &scratch->packet;
	const struct interface *interface = interface_of(own_address(packet->tuple.self) >> OWN_INTERFACE_SHIFT);
	struct record *fresh;

	if (!interface || own_address(packet->tuple.peer) || !address_is_ordinary(packet->tuple.peer) ||
	    !address_is_ordinary(packet->tuple.self))
		return false;
	fresh = copy_record(find_record(&packet->tuple), &packet->tuple);
	if (!fresh->to)
		fresh->created = now();
	fresh->to = interface->id;
	fresh->hop = choose_gateway(packet, interface);
	fresh->generation = generation; /* which was read before all else */
	scratch->record = *fresh;
	scratch->record.moved_of = scratch->record.routed_of = 0xff; /* each packet would be the first */
	put_record();
	return true;
}

/* The record of the packet's addresses, with a decision of the present routing generation; NULL where there is none. */
static inline struct record *decided(const struct packet *packet)
{
	struct record *record = find_record(&packet->tuple);
	__u32 generation = *(volatile __u32 *)&configuration.routing_generation;

	if (likely(record && generation && record->generation == (__u16)generation) &&
	    likely(record->to == self_of(packet)->own >> OWN_INTERFACE_SHIFT && age(record->seen) <= seconds(IDLE_DECISION)))
		return record;
	put_in_scratch(packet);
	if (!originate())
		return NULL;
	record = find_record(&packet->tuple);
	return record && record->to ? record : &get_scratch()->record; /* there is no room */
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
	if (unlikely((record->seen ^ time) >> PLACE_STAMP_SHIFT))
		renew_place(ends_digest(&packet->tuple), KINDS_RECORD);
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
	if (!is_decided && has_relations(interface) && find_related()) {
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
