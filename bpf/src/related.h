/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * By which path a peer comes to an own address, in `originated`: what the host originates from that address towards the
 * peer may go the same way (`related`), as TFTP's data, active FTP and a daemon's own question to its fellow do.
 *
 * What proves the path is a flow of the peer's that nobody else can have made: a connection, or datagrams that were
 * answered and went on for a second. Such a flow is named, and not copied: what goes with it ends and moves as it does.
 * Or the peer's answers to what the host originated prove it. A first question proves nothing: only datagrams by one of
 * its ports go with it, as answers of another socket, or to another port (RFC 1350, 4; RFC 3261, 18.2.2).
 */
#pragma once

#include "segment.h"
#include "path.h"

static inline struct record *find_originated(const struct tuple *tuple)
{
	_Static_assert(offsetof(struct tuple, self) == offsetof(struct ends, self), "a tuple begins with its ends");
	return bpf_map_lookup_elem(&originated, tuple);
}

static inline bool is_open(const struct flow *flow, enum table table)
{
	return !is_closing(flow) && !is_idle(flow, table);
}

/* The flow with this digest in this table, if it goes on and has the ends of a tuple. */
static inline struct flow *open_flow(__u64 digest, enum table table, const struct tuple *tuple)
{
	struct flow *flow = digest ? find_digest(digest, table) : NULL;

	return flow && is_open(flow, table) && has_ends_of(flow, tuple) ? flow : NULL;
}

/* Copies a path that another CPU may be writing; false where it is: see store_path(). */
static inline bool read_path(const void *from, struct path *path)
{
	const volatile __u64 *words = from;
	__u64 *to = (__u64 *)path;

	to[0] = words[0];
	memory_barrier();
	to[1] = words[1];
	memory_barrier();
	return words[0] == to[0];
}

/* The flow by which the peer asked last, if the tuple has its own port, or soon after that the peer's. */
static inline struct flow *asked_by(const struct tuple *tuple)
{
	const __u64 *digest = tuple->protocol == IPPROTO_UDP ? bpf_map_lookup_elem(&questions, tuple) : NULL;
	struct flow *flow = digest ? open_flow(*digest, TABLE_CONNECTIONLESS, tuple) : NULL;

	return flow && (flow->tuple.self_port == tuple->self_port ||
			(flow->tuple.peer_port == tuple->peer_port && age(flow->seen) <= seconds(IDLE_QUESTION))) ? flow : NULL;
}

/* Gives the scratch the path of the open flow with this digest that has the ends of the scratch flow; false for none. */
__noinline int copy_open_path(__u64 digest, __u32 table)
{
	struct scratch *scratch = get_scratch();
	struct flow *flow;

	if (!scratch || table > TABLE_CONNECTIONLESS)
		return false;
	flow = open_flow(digest, table, &scratch->flow.tuple);
	return flow && read_path(&flow->ifindex, &scratch->path);
}

/* The same of the flow by which the peer asked last. */
__noinline int copy_asked_path(void)
{
	struct scratch *scratch = get_scratch();
	struct flow *flow = scratch ? asked_by(&scratch->flow.tuple) : NULL;

	return flow && read_path(&flow->ifindex, &scratch->path);
}

/*
 * Gives the scratch the path by which the peer of the scratch flow comes to its own address; false where none is proven.
 * Anybody may have made a conversation of datagrams: it takes nothing away from what is answered.
 */
static inline bool related_path(const struct record *record, struct scratch *scratch)
{
	bool is_open = copy_open_path(record->flow, record->table);

	if ((!is_open || record->table == TABLE_CONNECTIONLESS) && record->answered.ifindex &&
	    age(record->heard) <= seconds(is_open ? IDLE_CONNECTIONLESS : IDLE_OUTBOUND))
		return read_path(&record->answered, &scratch->path);
	return is_open || copy_asked_path();
}

/*
 * Whether a flow takes the place of the one that a pair goes with: that is over, or proves less, or shows another path
 * than by the interface of the own address, as which this one came.
 */
static inline bool takes_place(const struct record *record, const struct flow *flow, enum table table)
{
	const struct flow *other = open_flow(record->flow, record->table, &flow->tuple);

	if (!other || (table == TABLE_ESTABLISHED && record->table == TABLE_CONNECTIONLESS))
		return true;
	return table == record->table && other->interface != flow->interface &&
	       flow->interface == own_address(flow->tuple.self) >> OWN_INTERFACE_SHIFT;
}

/*
 * A flow with this digest, in this table, has begun, or has gone on for a second: it proves by which path its peer comes if
 * it is a connection, or was answered by who takes it. The kernel answers all echo requests. Returns 0.
 */
__noinline int relate(__u64 digest, __u32 table)
{
	struct flow *flow = find_digest(digest, table);
	__u8 protocol = flow ? flow->tuple.protocol : IPPROTO_ICMP;
	struct scratch *scratch = get_scratch();
	struct record *record;

	if (!scratch || !flow || flow->flags & (table == TABLE_CONNECTIONLESS ? FLOW_NO_SOCKET : 0))
		return 0;
	if (protocol == IPPROTO_UDP)
		bpf_map_update_elem(&questions, &flow->tuple, &digest, BPF_ANY);
	if (table == TABLE_CONNECTIONLESS &&
	    (!(flow->state & FLOW_REPLIED) || protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6))
		return 0;
	record = find_originated(&flow->tuple);
	if (!record) {
		scratch->record = (struct record){ .flow = digest, .table = table };
		bpf_map_update_elem(&originated, &flow->tuple, &scratch->record, BPF_NOEXIST);
	} else if (record->flow != digest && takes_place(record, flow, table)) {
		record->table = table;
		record->flow = digest;
	}
	return 0;
}

/*
 * Once a second the next hop is chosen anew: gateways may be known by now, and the ifindex another's. What goes on so
 * long proves the path of its peer.
 */
static __noinline void refresh(struct __sk_buff *skb, struct scratch *scratch, struct flow *flow)
{
	if (!is_due(flow))
		return set_active(flow);
	flow->seen = now();
	flow->flags &= ~FLOW_ACTIVE;
	set_path(skb, lasting_table(&scratch->packet));
	relate(scratch->packet.digest, lasting_table(&scratch->packet));
}

/*
 * The scratch packet answers what the host began, and shows by which path its peer comes: a segment if a socket here expects
 * it. Of a datagram nobody knows whether its sender is forged: one by another path than those before counts only when that
 * path cannot be used, or has been silent for a while. Returns whether nothing more is to be learnt this second.
 */
__noinline int relate_answer(struct __sk_buff *skb)
{
	struct scratch *scratch = get_scratch();
	bool is_proof = scratch && scratch->packet.protocol == IPPROTO_TCP;
	enum verdict verdict = is_proof ? ask_socket(skb) : VERDICT_OPENED;
	struct record *record, *fresh;
	const struct path *known;
	struct path *path;

	if (verdict == VERDICT_OPENING || verdict == VERDICT_REFUSED)
		return false;
	if (!scratch || verdict != VERDICT_OPENED || !find_path_back(skb))
		return true;
	path = &scratch->path;
	record = find_originated(&scratch->packet.tuple);
	fresh = &scratch->record;
	*fresh = record ? *record : (struct record){};
	known = &fresh->answered;
	if (record && known->ifindex == path->ifindex && known->gateway == path->gateway &&
	    (path->gateway || mac_equal(known->mac, path->mac))) {
		record->heard = now();
		return true;
	}
	if (record && !is_proof && age(record->heard) <= seconds(IDLE_CONNECTIONLESS) &&
	    is_usable(known->interface, known->ifindex))
		return true;
	fresh->answered = *path;
	fresh->heard = now();
	bpf_map_update_elem(&originated, &scratch->packet.tuple, fresh, BPF_ANY);
	return true;
}
