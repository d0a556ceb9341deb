/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The nursery: TCP connections in their first second, from the SYN on. Most are over by then.
 *
 * It is a table of flows that stays in the cache, where a set of the others has to come from memory. A handshake ends
 * in place, without a question to a socket. It has one entry of a tuple at most, and what other tables have by that
 * tuple is older.
 *
 * The fast paths look here where the established table has nothing, and a RST does. For all else that arrives, an entry
 * first moves to the table of its kind: the rules know of no nursery. A new entry pushes out nothing. One that is over
 * makes way, else one that is older than a second moves. Where there is none, the new one goes to the other tables at
 * once: a flood of SYNs fills the nursery, and then passes by.
 */
#pragma once

#include "table.h"

static inline __u64 *finished_slot(__u64 digest)
{
	__u32 index = (digest >> 1) % FINISHED; /* the lowest bit is always set */

	return bpf_map_lookup_elem(&finished, &index);
}

/* A mark lasts for the rest of its period and the next one: as long as TIME_WAIT at least, whatever the kernel's HZ. */
static inline __u32 finished_period(void)
{
	return now() >> (seconds(1) > 17 ? 12 : 10); /* by 300 Hz it would be 55 s */
}

/*
 * Whether the peer opened a connection of this tuple that is over. Its socket may be in TIME_WAIT still, and then
 * answers a FIN that is sent again; who opened it that does not tell.
 */
static inline bool has_finished(__u64 digest)
{
	const __u64 *slot = finished_slot(digest);

	return slot && is_mark_of(*slot, digest, 0, finished_period());
}

/* The host opens a connection of this tuple. */
static inline void unmark_finished(__u64 digest)
{
	__u64 *slot = finished_slot(digest);

	if (slot && unlikely(is_mark_of(*slot, digest, 0, finished_period())))
		*slot = 0;
}

/* The connection of this tuple is over. */
static inline void mark_finished(__u64 digest)
{
	__u64 *slot = finished_slot(digest);

	if (slot)
		*slot = mark_of(digest, 0, finished_period());
}

/*
 * Makes the entry at this place the scratch flow, and its digest that of the scratch packet, as insert() wants them.
 * Returns the table of its kind, TABLE_END where there is no entry.
 */
__noinline int pick_up(__u32 index, __u32 way)
{
	const struct flow_set *set = get_set(TABLE_NURSERY, index);
	struct scratch *from = get_scratch();
	enum table table;

	if (!set || !from || way >= WAYS || !set->digest[way])
		return TABLE_END;
	from->kept = from->packet.digest;
	from->packet.digest = set->digest[way];
	from->flow = set->flow[way];
	table = kind_of(&from->flow, TABLE_NURSERY);
	from->flow.flags &= ~NURSERY_FLAGS;
	return table;
}

/* Takes the entry that was picked up out of the nursery, if it has another place. Returns 0. */
__noinline int put_down(__u32 has_place)
{
	struct scratch *from = get_scratch();

	if (!from)
		return 0;
	if (has_place)
		remove(from->packet.digest, TABLE_NURSERY);
	from->packet.digest = from->kept;
	return 0;
}

/* Moves the entry at this place to the table of its kind; false where there is no room. Uses the scratch flow. */
static inline bool leave_nursery(__u32 index, __u32 way)
{
	const __u32 flags = INSERT_OVER_LIVE | INSERT_MOVED;
	int table = pick_up(index, way), placed;

	if (table == TABLE_END)
		return false;
	placed = insert(table, flags);
	if (unlikely(placed == WAY_TAKEN))
		placed = insert(table, flags | INSERT_LAST);
	put_down(placed == PLACED);
	return placed == PLACED;
}

/* What is not for the fast paths: the tuple's entry moves. */
static inline void move_from_nursery(__u64 digest)
{
	const __u64 *tags = get_tags(TABLE_NURSERY, first_set(digest, sets[TABLE_NURSERY]));
	int place = NOWHERE;

	if (tags && unlikely(tag_matches(*tags, digest)))
		place = place_of(TABLE_NURSERY, digest);
	if (place != NOWHERE)
		leave_nursery((__u32)place / WAYS, (__u32)place % WAYS);
}

/* How readily an entry moves for another one: 0 for not at all. */
static inline __u32 readiness(const struct flow *flow, __u32 time)
{
	__u32 ticks = age_at(flow->seen, time);

	if (is_over(flow))
		return OVER;
	if (is_closing(flow))
		return ticks | EVICT_EARLY;
	return ticks >= seconds(1) ? ticks : 0;
}

/* The way of a full set whose entry moves for another one, WAYS for none. */
__noinline int readiest(__u32 index, __u32 preferred)
{
	const struct flow_set *set = get_set(TABLE_NURSERY, index);
	__u32 time = now(), most = 0, chosen = WAYS;

	if (!set)
		return WAYS;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < WAYS; i++) {
		__u32 way = (preferred + i) % WAYS, ready = readiness(&set->flow[way], time);

		if (ready <= most)
			continue;
		most = ready;
		chosen = way;
		if (likely(most == OVER))
			break;
	}
	return chosen;
}

/*
 * Has an entry of a full set make way: the vacancy is that of a connection that is over, which is written over, or of one
 * that has moved. Returns false where none does.
 */
static inline bool make_way(__u32 index, __u32 preferred, struct vacancy *vacancy)
{
	const struct flow_set *set = get_set(TABLE_NURSERY, index);
	__u32 way = readiest(index, preferred);

	if (!set || way >= WAYS)
		return false;
	vacancy->way = way;
	vacancy->digest = *(volatile const __u64 *)&set->digest[way]; /* first: another CPU may give it to another flow */
	if (likely(is_over(&set->flow[way])))
		return true;
	if (!leave_nursery(index, way))
		return false;
	vacancy->way = way;
	vacancy->digest = 0;
	return true;
}

/* Finds a place for the scratch packet's entry, the first vacancy; false where there is none. No sets: no nursery. */
static inline bool make_room_in_nursery(struct scratch *from)
{
	__u64 digest = from->packet.digest, free;
	__u32 index = first_set(digest, sets[TABLE_NURSERY]), preferred = preferred_way(digest);
	const __u64 *tags = get_tags(TABLE_NURSERY, index);

	if (!sets[TABLE_NURSERY] || !tags)
		return false;
	free = free_ways(*tags);
	if (!free)
		return make_way(index, preferred, &from->vacancy[0]);
	from->vacancy[0].way = (preferred + first_match(ways_from(free, preferred))) % WAYS;
	from->vacancy[0].digest = 0;
	return true;
}

/* Enters the handshake that is in the scratch into its vacancy; false where another CPU was first. */
static inline bool enter_nursery(const struct scratch *from)
{
	__u64 digest = from->packet.digest;
	__u32 index = first_set(digest, sets[TABLE_NURSERY]);
	struct flow_set *set = get_set(TABLE_NURSERY, index);
	__u64 *tags = get_tags(TABLE_NURSERY, index);
	struct bpf_spin_lock *lock = get_lock(index);

	if (!set || !tags || !lock || !fill(set, tags, lock, &from->vacancy[0], &from->flow, digest, true))
		return false;
	count_event(EVENT_ADMITTED_HALF_OPEN);
	return true;
}

static inline struct flow *find_young(const struct packet *packet)
{
	struct flow *flow = find(packet, TABLE_NURSERY);

	return flow && likely(!is_idle(flow, TABLE_NURSERY)) ? flow : NULL;
}

/* The handshake of a tuple, wherever it is. */
static inline struct flow *find_handshake(const struct packet *packet, enum table *table)
{
	struct flow *flow = find_young(packet);

	*table = TABLE_NURSERY;
	if (flow && flow->flags & FLOW_HANDSHAKE)
		return flow;
	*table = TABLE_HALF_OPEN;
	return find_live(packet, TABLE_HALF_OPEN);
}

/*
 * The entry is idle. If we have closed its connection, and the peer is silent, what we send again goes by it and keeps it.
 * Returns whether that is so; the tuple may have another connection by now.
 */
static __noinline bool revive(const struct packet *packet, struct flow *flow, enum table table)
{
	if (packet->tcp_flags & (TCP_SYN | TCP_RST) || !(flow->state & FLOW_CLOSING) ||
	    age(flow->seen) > seconds(IDLE_UNANSWERED))
		return false;
	if (table == TABLE_ESTABLISHED && (find_young(packet) || find_live(packet, TABLE_HALF_OPEN)))
		return false;
	flow->seen = now();
	return true;
}

/*
 * The flow of a TCP tuple: the connection, wherever it is, before the handshake. `leaves`: the packet does now, and is not
 * what an error quotes.
 */
static inline struct flow *find_tcp(const struct packet *packet, enum table *table, bool leaves)
{
	struct flow *flow = find(packet, TABLE_ESTABLISHED);

	*table = TABLE_ESTABLISHED;
	if (flow && (likely(!is_idle(flow, *table)) || (leaves && revive(packet, flow, *table))))
		return flow;
	*table = TABLE_NURSERY;
	flow = find(packet, TABLE_NURSERY);
	if (flow && (likely(!is_idle(flow, *table)) || (leaves && revive(packet, flow, *table))))
		return flow;
	*table = TABLE_HALF_OPEN;
	return find_live(packet, TABLE_HALF_OPEN);
}
