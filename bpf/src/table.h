/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flow tables: look up, insert, remove (docs/design/flow-tables.md). The kernel may give an entry's memory to
 * another tuple at any moment: who copies one compares the tuple afterwards.
 */
#pragma once

#include "negative_cache.h"

/* A closing connection stands beside the next handshake of its tuple: digests are odd. */
static inline __u64 ended_key(__u64 digest)
{
	return digest & ~1ULL;
}

static inline void *get_map(enum flow_map map)
{
	__u32 index = map;

	return bpf_map_lookup_elem(&flow_maps, &index);
}

static inline struct flow *find_in(enum flow_map map, __u64 key)
{
	void *flows = get_map(map);

	return flows ? bpf_map_lookup_elem(flows, &key) : NULL;
}

/* The entry with this digest, whatever its tuple. */
static inline struct flow *find_digest(__u64 digest, enum table table)
{
	struct flow *flow;

	if (table == TABLE_HALF_OPEN)
		return find_in(MAP_HALF_OPEN, digest);
	flow = find_in(table == TABLE_ESTABLISHED ? MAP_ESTABLISHED : MAP_ASSURED, digest);
	if (likely(flow))
		return flow;
	return table == TABLE_ESTABLISHED ? find_in(MAP_HALF_OPEN, ended_key(digest)) : find_in(MAP_CONNECTIONLESS, digest);
}

/* The packet's flow in this table, idle or not. */
static inline struct flow *find(const struct packet *packet, enum table table)
{
	struct flow *flow = find_digest(packet->digest, table);

	return flow && likely(tuple_equal(&flow->tuple, &packet->tuple)) ? flow : NULL;
}

static inline struct flow *find_live(const struct packet *packet, enum table table)
{
	struct flow *flow = find(packet, table);

	return flow && likely(!is_idle(flow, table)) ? flow : NULL;
}

/* find_live(), off the fast path: a call costs less there than another copy costs the verifier. */
static __noinline struct flow *look_up(const struct packet *packet, enum table table)
{
	return find_live(packet, table);
}

/* Keeps the idle entry of what we closed and send again (docs/design/flow-life.md). A new handshake goes before. */
static __noinline bool revive(const struct packet *packet, struct flow *flow)
{
	if (packet->tcp_flags & (TCP_SYN | TCP_RST) || !(flow->state & FLOW_CLOSING) ||
	    age(flow->seen) > seconds(IDLE_UNANSWERED) || find_live(packet, TABLE_HALF_OPEN))
		return false;
	flow->seen = now();
	return true;
}

/* The connection before the handshake. `leaves`: the packet does now, and is not what an error quotes. */
static inline struct flow *find_tcp(const struct packet *packet, enum table *table, bool leaves)
{
	struct flow *flow = find(packet, TABLE_ESTABLISHED);

	*table = TABLE_ESTABLISHED;
	if (flow && (likely(!is_idle(flow, TABLE_ESTABLISHED)) || (leaves && revive(packet, flow))))
		return flow;
	*table = TABLE_HALF_OPEN;
	return find_live(packet, TABLE_HALF_OPEN);
}

static inline void remove_in(enum flow_map map, __u64 key)
{
	void *flows = get_map(map);

	if (flows)
		bpf_map_delete_elem(flows, &key);
}

__noinline int remove_entry(__u64 digest, __u32 table)
{
	if (table == TABLE_HALF_OPEN) {
		remove_in(MAP_HALF_OPEN, digest);
	} else if (table == TABLE_ESTABLISHED) {
		remove_in(MAP_ESTABLISHED, digest);
		remove_in(MAP_HALF_OPEN, ended_key(digest));
	} else {
		remove_in(MAP_ASSURED, digest);
		remove_in(MAP_CONNECTIONLESS, digest);
	}
	return 0;
}

static inline enum flow_map map_of(const struct flow *flow, enum table table)
{
	if (table == TABLE_CONNECTIONLESS)
		return flow->flags & FLOW_ASSURED ? MAP_ASSURED : MAP_CONNECTIONLESS;
	return table == TABLE_ESTABLISHED && !is_closing(flow) ? MAP_ESTABLISHED : MAP_HALF_OPEN;
}

/* Puts the scratch flow where its table has such. Replies on other CPUs see all of it or nothing. */
__noinline int put_flow(__u64 digest, __u32 table, __u64 flags)
{
	const struct flow *flow = &get_scratch()->flow;
	void *flows = get_map(map_of(flow, table));

	if (table == TABLE_ESTABLISHED && is_closing(flow))
		digest = ended_key(digest);
	return flows ? bpf_map_update_elem(flows, &digest, flow, flags) : -1;
}

/* Copies the packet's entry; false where its memory has become another's meanwhile. */
static inline bool copy_flow(struct flow *copy, const struct flow *flow, const struct packet *packet)
{
	*copy = *flow;
	asm volatile("" ::: "memory"); /* what is compared is read after what is copied */
	return tuple_equal(&flow->tuple, &packet->tuple);
}

/* Moves the entry of what is closing, or no more, or a conversation. Returns its entry, the old one without room. */
static __noinline struct flow *move_entry(const struct packet *packet, enum table table, struct flow *flow, __u8 state)
{
	struct flow *copy = &get_scratch()->flow;

	if (!copy_flow(copy, flow, packet))
		return NULL;
	copy->state |= state;
	if (table == TABLE_CONNECTIONLESS)
		copy->flags |= FLOW_ASSURED;
	if (put_flow(packet->digest, table, BPF_ANY)) {
		count_event(EVENT_INSERT_FAILED_HALF_OPEN + table);
		return flow;
	}
	if (table == TABLE_CONNECTIONLESS)
		remove_in(MAP_CONNECTIONLESS, packet->digest);
	else if (is_closing(copy))
		remove_in(MAP_ESTABLISHED, packet->digest);
	else
		remove_in(MAP_HALF_OPEN, ended_key(packet->digest));
	return find(packet, table);
}

/*
 * Enters the scratch flow in the place of a stray or an idle entry of its tuple, or, `over_live`, of any. Else another
 * flow has this digest, or another CPU was first: that is counted, but for strays. Returns whether it did.
 */
__noinline int enter_flow(__u32 table, __u32 over_live)
{
	struct scratch *scratch = get_scratch();
	__u64 digest = scratch->packet.digest;
	const struct flow *old = find_digest(digest, table);
	int failed = -1;

	if (!old || (tuple_equal(&old->tuple, &scratch->flow.tuple) &&
		     (over_live || old->flags & FLOW_STRAY || is_idle(old, table)))) {
		if (old)
			remove_entry(digest, table);
		failed = put_flow(digest, table, BPF_NOEXIST);
	}
	if (!(scratch->flow.flags & FLOW_STRAY))
		count_event((failed ? EVENT_INSERT_FAILED_HALF_OPEN : EVENT_ADMITTED_HALF_OPEN) + table);
	return !failed;
}
