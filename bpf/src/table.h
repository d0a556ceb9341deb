/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The flow tables: look up, insert, remove. */
#pragma once

#include "negative_cache.h"

/*
 * The same number, of which the verifier only knows that it is a way: otherwise it would follow the rest of the program
 * once for every way. What is added is 0, which it cannot tell for an unknown number.
 */
static inline __u32 any_way(__u32 way, __u64 unknown)
{
	__u64 same = unknown;

	asm volatile("" : "+r"(same));
	return (way + (__u32)(same - unknown)) % WAYS;
}

/* The way of a set that holds the digest, -1 for none. */
static inline int find_way(const __u64 *digests, __u64 digest)
{
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < WAYS; i++)
		if (digests[i] == digest)
			return any_way(i, digest);
	return -1;
}

static inline __u32 set_count(enum table table)
{
	return table < TABLE_END ? sets[table] : 0;
}

/* Where a table begins in `flows` and `tags`: the one of most packets first, as it costs nothing there. */
static inline __u32 first_of(enum table table)
{
	switch (table) {
	case TABLE_ESTABLISHED:
		return 0;
	case TABLE_CONNECTIONLESS:
		return sets[TABLE_ESTABLISHED];
	default:
		return sets[TABLE_ESTABLISHED] + sets[TABLE_CONNECTIONLESS];
	}
}

/* The sets of a digest in a table, by their number in the maps. */
static inline __u32 first_in(enum table table, __u64 digest)
{
	return first_of(table) + first_set(digest, set_count(table));
}

static inline __u32 second_in(enum table table, __u64 digest)
{
	return first_of(table) + second_set(digest, set_count(table));
}

static inline struct flow_set *get_set(__u32 index)
{
	return bpf_map_lookup_elem(&flows, &index);
}

static inline __u64 *get_tags(__u32 index)
{
	return bpf_map_lookup_elem(&tags, &index);
}

/* find_way(), which looks first at the first way that has the tag: nearly always it is that. */
static inline int find_by_tags(const struct flow_set *set, __u64 tags, __u64 digest)
{
	__u32 likely_way = first_match(tag_matches(tags, digest));

	return likely(set->digest[likely_way] == digest) ? (int)likely_way : find_way(set->digest, digest);
}

#define NOWHERE (-1)

/* Where a table holds the digest, or NOWHERE: the number of the set in the maps times WAYS, plus the way. */
__noinline int place_of(__u32 table, __u64 digest)
{
	__u32 index = first_in(table, digest);
	struct flow_set *set;
	__u64 *tags;
	int way;

	if (table > TABLE_CONNECTIONLESS)
		return NOWHERE;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 2; i++) {
		tags = get_tags(index);
		if (!tags)
			return NOWHERE;
		set = tag_matches(*tags, digest) ? get_set(index) : NULL;
		way = set ? find_by_tags(set, *tags, digest) : -1;
		if (way >= 0)
			return index * WAYS + way;
		if (!(*tags & OVERFLOWED))
			return NOWHERE;
		index = second_in(table, digest);
	}
	return NOWHERE;
}

static inline struct flow *flow_at(int place)
{
	struct flow_set *set;

	if (place == NOWHERE)
		return NULL;
	set = get_set((__u32)place / WAYS);
	if (!set)
		return NULL;
	return &set->flow[(__u32)place % WAYS];
}

/* The packet's flow in this table, idle or not: nearly always in its first set, in the first way that has its tag. */
static inline struct flow *find(const struct packet *packet, enum table table)
{
	__u32 index = first_in(table, packet->digest);
	__u64 *tags = get_tags(index), matches;
	struct flow_set *set;
	struct flow *flow;

	if (!tags)
		return NULL;
	matches = tag_matches(*tags, packet->digest);
	if (matches) {
		set = get_set(index);
		if (!set)
			return NULL;
		flow = &set->flow[first_match(matches)];
		if (likely(tuple_equal(&flow->tuple, &packet->tuple)))
			return flow;
	} else if (likely(!(*tags & OVERFLOWED))) {
		return NULL;
	}
	flow = flow_at(place_of(table, packet->digest));
	return flow && tuple_equal(&flow->tuple, &packet->tuple) ? flow : NULL;
}

/* find(), off the fast path: a call costs less there than another copy costs the verifier. */
static __noinline struct flow *look_up(const struct packet *packet, enum table table)
{
	return find(packet, table);
}

static inline struct flow *look_up_live(const struct packet *packet, enum table table)
{
	struct flow *flow = look_up(packet, table);

	return flow && likely(!is_idle(flow, table)) ? flow : NULL;
}

/*
 * The entry with this digest, whatever its tuple. Who asks has mostly found it a moment ago, so that it is in a cache:
 * to look where it most likely is is faster then than to work out from the tags where it is.
 */
static inline struct flow *find_digest(__u64 digest, enum table table)
{
	struct flow_set *set = get_set(first_in(table, digest));
	__u32 preferred = preferred_way(digest);

	if (likely(set && set->digest[preferred] == digest))
		return &set->flow[preferred];
	return flow_at(place_of(table, digest));
}

static inline struct flow *find_live(const struct packet *packet, enum table table)
{
	struct flow *flow = find(packet, table);

	return flow && likely(!is_idle(flow, table)) ? flow : NULL;
}

/*
 * The established entry is idle. If we have closed its connection, and the peer is silent, what we send again goes by it
 * and keeps it. Returns whether that is so; the tuple may have another connection by now.
 */
static __noinline bool revive(const struct packet *packet, struct flow *flow)
{
	if (packet->tcp_flags & (TCP_SYN | TCP_RST) || !(flow->state & FLOW_CLOSING) ||
	    age(flow->seen) > seconds(IDLE_UNANSWERED) || find_live(packet, TABLE_HALF_OPEN))
		return false;
	flow->seen = now();
	return true;
}

/*
 * The flow of a TCP tuple: the connection before the handshake. `leaves`: the packet does now, and is not what an error
 * quotes.
 */
static inline struct flow *find_tcp(const struct packet *packet, enum table *table, bool leaves)
{
	struct flow *flow = find(packet, TABLE_ESTABLISHED);

	*table = TABLE_ESTABLISHED;
	if (flow && (likely(!is_idle(flow, TABLE_ESTABLISHED)) || (leaves && revive(packet, flow))))
		return flow;
	*table = TABLE_HALF_OPEN;
	return find_live(packet, TABLE_HALF_OPEN);
}

static inline struct bpf_spin_lock *get_lock(__u32 set)
{
	__u32 index = set % SET_LOCKS;
	struct set_lock *lock = bpf_map_lookup_elem(&set_locks, &index);

	return lock ? &lock->lock : NULL;
}

/* Whether more than one question came in and was answered: what a flood does not show. */
static inline bool is_conversation(const struct flow *flow)
{
	return flow->state & FLOW_REPLIED &&
	       (flow->flags & FLOW_ACTIVE || flow->seen != flow->created);
}

#define EVICT_EARLY (1U << 31)
#define OVER (~0U)

/*
 * How readily a flow makes room: one that is over (OVER), then one that is closing, or none, then what has not become a
 * conversation, then what was quiet longest.
 */
static inline __u32 eviction_priority(const struct flow *flow, enum table table, __u32 time)
{
	__u32 rank = silence(flow, table, time);

	if (rank > idle_limit(flow, table))
		return OVER;
	if (is_closing(flow) || is_stray(flow))
		rank |= EVICT_EARLY;
	if (table == TABLE_CONNECTIONLESS && !is_conversation(flow))
		rank |= 1U << 30;
	return rank;
}

/* A free way, if the set has enough of them. The tags tell, so that no entry has to come from memory. */
static inline bool has_room(__u64 tags, __u32 preferred, struct vacancy *vacancy)
{
	__u64 free = free_ways(tags);

	vacancy->used = WAYS - count_ways(free);
	if (vacancy->used >= CROWDED)
		return false;
	vacancy->way = (preferred + first_match(ways_from(free, preferred))) % WAYS;
	vacancy->digest = 0;
	vacancy->rank = OVER;
	vacancy->stray = 0;
	return true;
}

/*
 * Compares the nth way of a set, from the one on that the scratch packet's digest prefers, with the vacancy: the first
 * or the other one. A global function: the verifier looks at it once, not for each way.
 */
__noinline int compare_way(__u32 table, __u32 index, __u32 other, __u32 n)
{
	struct scratch *from = get_scratch();
	struct vacancy *vacancy;
	const struct flow *flow;
	struct flow_set *set;
	__u32 way, rank;

	if (!from || table > TABLE_CONNECTIONLESS)
		return false;
	set = get_set(index);
	if (!set)
		return false;
	vacancy = other ? &from->vacancy[1] : &from->vacancy[0];
	way = (preferred_way(from->packet.digest) + n) % WAYS;
	flow = &set->flow[way];
	rank = set->digest[way] ? eviction_priority(flow, table, now()) : OVER;
	if (!n)
		vacancy->used = 0;
	vacancy->used += rank != OVER;
	if (n && rank <= vacancy->rank) /* a flow of this very tick has rank 0 */
		return true;
	vacancy->way = way;
	vacancy->digest = set->digest[way];
	vacancy->rank = rank;
	vacancy->stray = is_stray(flow);
	return true;
}

/*
 * The way of a set that is given up most readily for the scratch packet's flow; of ways that are as good as each other
 * the one that its digest prefers, or is next to that. The answer is in the scratch, as its first vacancy or as the
 * other one.
 */
static inline bool look_for_vacancy(__u32 table, __u32 index, __u32 other)
{
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < WAYS; n++)
		if (!compare_way(table, index, other, n))
			return false;
	return true;
}

/* Writes the entry unless another CPU took the way, or entered the flow, first. */
static inline bool fill(struct flow_set *set, __u64 *tags, struct bpf_spin_lock *lock, const struct vacancy *vacancy,
			const struct flow *flow, __u64 digest)
{
	__u32 way = vacancy->way % WAYS;
	bool done = false;

	bpf_spin_lock(lock);
	if (set->digest[way] == vacancy->digest && find_way(set->digest, digest) < 0) {
		*tags = with_tag(*tags, way, 0);
		set->digest[way] = 0;
		memory_barrier();
		set->flow[way] = *flow;
		memory_barrier();
		set->digest[way] = digest;
		*tags = with_tag(*tags, way, tag_of(digest));
		done = true;
	}
	bpf_spin_unlock(lock);
	return done;
}

/* Enters a flow in its first set, where no place of a table has its digest, unless that set is crowded. */
static inline void enter_where_free(enum table table, const struct flow *flow, __u64 digest, struct vacancy *vacancy)
{
	__u32 index = first_in(table, digest);
	struct flow_set *set = get_set(index);
	__u64 *tags = get_tags(index);
	struct bpf_spin_lock *lock = get_lock(index);

	if (set && tags && lock && place_of(table, digest) == NOWHERE &&
	    has_room(*tags, preferred_way(digest), vacancy))
		fill(set, tags, lock, vacancy, flow, digest);
}

/* Whether an entry makes way for a new one of its tuple. If not, another CPU has made it just now. */
static inline bool is_replaceable(const struct flow *old, const struct flow *flow, enum table table)
{
	return is_stray(old) || silence(old, table, flow->seen) > idle_limit(old, table);
}

/*
 * Puts a flow in the place of another one of its tuple, which replies on other CPUs may be reading: its way is stored
 * before anything says that it is live.
 */
static inline void overwrite(struct flow *old, const struct flow *flow)
{
	store_path(old, (const struct path *)&flow->ifindex);
	asm volatile("" ::: "memory"); /* the compiler may store what is not volatile first */
	memory_barrier();
	__builtin_memcpy(old, flow, offsetof(struct flow, ifindex));
	__builtin_memcpy(&old->corrected, &flow->corrected,
			 sizeof(*flow) - offsetof(struct flow, corrected));
}

/*
 * Writes over the entry of the flow's own tuple, if need be a live one. It was found a while ago: another flow may have
 * its way by now, or have had the digest all along.
 */
static inline bool write_over(struct flow_set *set, struct bpf_spin_lock *lock, const struct flow *flow,
			      __u64 digest, enum table table, bool over_live)
{
	bool done = false;
	int way;

	bpf_spin_lock(lock);
	way = find_way(set->digest, digest);
	if (way >= 0 && tuple_equal(&set->flow[way].tuple, &flow->tuple) &&
	    (over_live || is_replaceable(&set->flow[way], flow, table))) {
		overwrite(&set->flow[way], flow);
		done = true;
	}
	bpf_spin_unlock(lock);
	return done;
}

/* Lookups in this set go on to the second one from now on. */
static inline void mark_overflowed(__u32 index)
{
	__u64 *tags = get_tags(index);
	struct bpf_spin_lock *lock = get_lock(index);

	if (!tags || !lock || *tags & OVERFLOWED)
		return;
	bpf_spin_lock(lock);
	*tags |= OVERFLOWED;
	bpf_spin_unlock(lock);
}

enum placed {
	REFUSED,
	PLACED,
	WAY_TAKEN, /* by another CPU */
};

/* Strays are not counted. */
static inline enum placed count_refused(const struct scratch *from, enum table table)
{
	if (!(from->flow.flags & FLOW_STRAY))
		count_event(EVENT_INSERT_FAILED_HALF_OPEN + table);
	return REFUSED;
}

enum insert_flags {
	INSERT_OVER_LIVE = 1 << 0, /* a live entry of the tuple makes way as well */
	INSERT_LAST = 1 << 1,      /* it is not tried again */
};

/* Without a vacancy the flow's own entry was written over. */
static inline enum placed count_placed(const struct flow *flow, const struct vacancy *vacancy, enum table table)
{
	if (flow->flags & FLOW_STRAY)
		return PLACED;
	count_event(EVENT_ADMITTED_HALF_OPEN + table);
	if (vacancy && vacancy->used == WAYS && !vacancy->stray)
		count_event(EVENT_EVICTED_HALF_OPEN + table);
	return PLACED;
}

static inline enum placed insert_over(const struct scratch *from, enum table table, int place, __u32 flags)
{
	__u32 index = (__u32)place / WAYS;
	struct flow_set *set = get_set(index);
	struct bpf_spin_lock *lock = get_lock(index);

	if (!set || !lock ||
	    !write_over(set, lock, &from->flow, from->packet.digest, table, flags & INSERT_OVER_LIVE))
		return count_refused(from, table);
	return count_placed(&from->flow, NULL, table);
}

/* Leaves a way for the scratch packet's flow in the first vacancy of the scratch; returns its set. */
static inline __u32 choose_vacancy(struct scratch *from, enum table table)
{
	__u64 digest = from->packet.digest;
	__u32 index = first_in(table, digest);
	__u32 second = second_in(table, digest);
	const __u64 *tags = get_tags(index);
	struct vacancy *vacancy = &from->vacancy[0], *alternative = &from->vacancy[1];

	if (!tags || !has_room(*tags, preferred_way(digest), vacancy))
		look_for_vacancy(table, index, 0);
	if (vacancy->used < CROWDED)
		return index;
	look_for_vacancy(table, second, 1);
	if (alternative->used >= vacancy->used &&
	    (alternative->used < WAYS || alternative->rank <= vacancy->rank))
		return index;
	mark_overflowed(index);
	*vacancy = *alternative;
	return second;
}

/* enter_flow(), once, with enum insert_flags. That the way was taken meanwhile is counted the last time. */
__noinline int insert(__u32 table, __u32 flags)
{
	struct scratch *from = get_scratch();
	struct bpf_spin_lock *lock;
	struct vacancy *vacancy;
	struct flow_set *set;
	__u64 digest, *tags;
	__u32 index;
	int place;

	if (!from || table > TABLE_CONNECTIONLESS)
		return REFUSED;
	digest = from->packet.digest;
	place = place_of(table, digest);
	if (place != NOWHERE)
		return insert_over(from, table, place, flags);
	vacancy = &from->vacancy[0];
	index = choose_vacancy(from, table);
	if (from->flow.flags & FLOW_STRAY && vacancy->rank < EVICT_EARLY)
		return count_refused(from, table);
	set = get_set(index);
	tags = get_tags(index);
	lock = get_lock(index);
	if (!set || !tags || !lock)
		return count_refused(from, table);
	if (!fill(set, tags, lock, vacancy, &from->flow, digest))
		return flags & INSERT_LAST ? count_refused(from, table) : WAY_TAKEN;
	return count_placed(&from->flow, vacancy, table);
}

/*
 * Enters the scratch flow under the digest of the scratch packet, in the place of an idle entry that its tuple has, or
 * of any: a connection takes the place of the one before. Returns whether it did. Where another CPU takes the way
 * first, as happens in a flood, it looks for another one: the next packet may be a SYN-ACK that has to find the entry.
 * That this happens twice, or that another flow has the digest, is counted; a connection has another chance with its
 * next segment.
 */
static inline bool enter_flow(enum table table, bool over_live)
{
	__u32 flags = over_live ? INSERT_OVER_LIVE : 0;
	int placed = insert(table, flags);

	if (unlikely(placed == WAY_TAKEN))
		placed = insert(table, flags | INSERT_LAST);
	return placed == PLACED;
}

/* Takes the entry at this place out, if it still has the digest. */
static inline void remove_at(int place, __u64 digest)
{
	__u32 index = (__u32)place / WAYS, way = (__u32)place % WAYS;
	struct flow_set *set = get_set(index);
	struct bpf_spin_lock *lock = get_lock(index);
	__u64 *tags = get_tags(index);

	if (!set || !lock || !tags)
		return;
	bpf_spin_lock(lock);
	if (set->digest[way] == digest) {
		*tags = with_tag(*tags, way, 0);
		set->digest[way] = 0;
	}
	bpf_spin_unlock(lock);
}

/* Takes out what has this digest, which two CPUs may have entered at once, each in another set. Returns 0. */
__noinline int remove_entry(__u64 digest, __u32 table)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < 2; i++) {
		int place = place_of(table, digest);

		if (place == NOWHERE)
			break;
		remove_at(place, digest);
	}
	return 0;
}
