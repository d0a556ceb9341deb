/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The flow tables: look up, insert, remove. */
#pragma once

#include "mark.h"
#include "tags.h"

/*
 * The same number, of which the verifier only knows that it is a way: otherwise
 * it would follow the rest of the program once for every way. What is added is
 * 0, which it cannot tell for an unknown number.
 */
static __always_inline __u32 any_way(__u32 way, __u64 unknown)
{
	__u64 same = unknown;

	asm volatile("" : "+r"(same));
	return (way + (__u32)(same - unknown)) % WAYS;
}

/* The way of a set that holds the digest, -1 for none. */
static __always_inline int find_way(const __u64 *digests, __u64 digest)
{
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < WAYS; i++)
		if (digests[i] == digest)
			return any_way(i, digest);
	return -1;
}

static __always_inline struct flow_set *get_set(enum table table, __u32 index)
{
	switch (table) {
	case TABLE_HALF_OPEN:
		return bpf_map_lookup_elem(&half_open, &index);
	case TABLE_ESTABLISHED:
		return bpf_map_lookup_elem(&established, &index);
	default:
		return bpf_map_lookup_elem(&connectionless, &index);
	}
}

static __always_inline __u64 *get_tags(enum table table, __u32 index)
{
	switch (table) {
	case TABLE_HALF_OPEN:
		return bpf_map_lookup_elem(&half_open_tags, &index);
	case TABLE_ESTABLISHED:
		return bpf_map_lookup_elem(&established_tags, &index);
	default:
		return bpf_map_lookup_elem(&connectionless_tags, &index);
	}
}

static __always_inline __u32 set_count(enum table table)
{
	switch (table) {
	case TABLE_HALF_OPEN:
		return sets[TABLE_HALF_OPEN];
	case TABLE_ESTABLISHED:
		return sets[TABLE_ESTABLISHED];
	default:
		return sets[TABLE_CONNECTIONLESS];
	}
}

/*
 * The flow with this tuple in one set. Nearly always it is in the first way that has
 * its tag, if it is there at all.
 */
static __always_inline struct flow *find_in_set(enum table table, __u32 index, __u64 tags,
						const struct packet *packet)
{
	__u64 matches = tag_matches(tags, packet->digest);
	struct flow_set *set;
	struct flow *flow;
	int way;

	if (!matches)
		return NULL;
	set = get_set(table, index);
	if (!set)
		return NULL;
	flow = &set->flow[first_match(matches)];
	if (likely(tuple_equal(&flow->tuple, &packet->tuple)))
		return flow;
	way = find_way(set->digest, packet->digest);
	if (way < 0)
		return NULL;
	flow = &set->flow[way];
	return tuple_equal(&flow->tuple, &packet->tuple) ? flow : NULL;
}

/* The packet's flow in this table, idle or not. */
static __always_inline struct flow *find(const struct packet *packet, enum table table)
{
	__u32 index = first_set(packet->digest, set_count(table));
	__u64 *tags = get_tags(table, index);
	struct flow *flow;

	if (!tags)
		return NULL;
	flow = find_in_set(table, index, *tags, packet);
	if (likely(flow || !(*tags & OVERFLOWED)))
		return flow;
	index = second_set(packet->digest, set_count(table));
	tags = get_tags(table, index);
	return tags ? find_in_set(table, index, *tags, packet) : NULL;
}

static __always_inline struct flow *find_digest_in_set(enum table table, __u32 index, __u64 digest)
{
	struct flow_set *set = get_set(table, index);
	__u32 preferred = preferred_way(digest);
	int way;

	if (!set)
		return NULL;
	if (likely(set->digest[preferred] == digest))
		return &set->flow[preferred];
	way = find_way(set->digest, digest);
	return way >= 0 ? &set->flow[way] : NULL;
}

/*
 * The entry with this digest, whatever its tuple. Who asks has mostly found it a moment
 * ago, so that it is in a cache: to look where it most likely is is faster then than to
 * work out from the tags where it is.
 */
static __always_inline struct flow *find_digest(__u64 digest, enum table table)
{
	__u32 index = first_set(digest, set_count(table));
	struct flow *flow = find_digest_in_set(table, index, digest);
	__u64 *tags;

	if (likely(flow))
		return flow;
	tags = get_tags(table, index);
	if (!tags || !(*tags & OVERFLOWED))
		return NULL;
	return find_digest_in_set(table, second_set(digest, set_count(table)), digest);
}

/* The packet's flow in this table unless it is idle. */
static __always_inline struct flow *find_live(const struct packet *packet, enum table table)
{
	struct flow *flow = find(packet, table);

	return flow && likely(!is_idle(flow, table)) ? flow : NULL;
}

static __always_inline struct bpf_spin_lock *get_lock(__u32 set)
{
	__u32 index = set % SET_LOCKS;
	struct set_lock *lock = bpf_map_lookup_elem(&set_locks, &index);

	return lock ? &lock->lock : NULL;
}

/* Whether more than one question came in and was answered: what a flood does not show. */
static __always_inline bool is_conversation(const struct flow *flow)
{
	return flow->state & FLOW_ANSWERED &&
	       (flow->flags & FLOW_ACTIVE || flow->seen != flow->created);
}

#define DISPENSABLE (1U << 31)

/*
 * How readily a flow makes room: one that is closing, or none, before all others, then what
 * has not become a conversation, then what was quiet longest.
 */
static __always_inline __u32 dispensable(const struct flow *flow, enum table table)
{
	__u32 rank = age(flow->seen);

	if (is_closing(flow) || flow->flags & FLOW_STRAY)
		rank |= DISPENSABLE;
	if (table == TABLE_CONNECTIONLESS && !is_conversation(flow))
		rank |= 1U << 30;
	return rank;
}

/*
 * A way that is free, if the set has enough of them: that the tags tell, so that no entry
 * is read, of which each may be a cache line that memory has to be asked for.
 */
static __always_inline bool has_room(__u64 tags, __u32 preferred, struct vacancy *vacancy)
{
	__u64 free = free_ways(tags);

	vacancy->used = WAYS - count_ways(free);
	if (vacancy->used >= CROWDED)
		return false;
	vacancy->way = (preferred + first_match(ways_from(free, preferred))) % WAYS;
	vacancy->digest = 0;
	vacancy->rank = ~0U;
	vacancy->stray = 0;
	return true;
}

/*
 * The way of a set that is given up most readily for the scratch packet's flow; of ways that
 * are as good as each other the one that its digest prefers, or is next to that. The answer
 * is in the scratch, as its first vacancy or as the other one. A global function, which the
 * verifier looks at once only.
 */
__noinline int look_for_vacancy(__u32 table, __u32 index, __u32 other)
{
	struct scratch *from = get_scratch();
	struct vacancy *vacancy;
	struct flow_set *set;
	__u32 preferred;

	if (!from || table > TABLE_CONNECTIONLESS)
		return false;
	set = get_set(table, index);
	if (!set)
		return false;
	vacancy = other ? &from->vacancy[1] : &from->vacancy[0];
	preferred = preferred_way(from->packet.digest);
	__builtin_memset(vacancy, 0, sizeof(*vacancy));
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < WAYS; i++) {
		__u32 way = (preferred + i) % WAYS;
		const struct flow *flow = &set->flow[way];
		bool free = !set->digest[way] || is_idle(flow, table);
		__u32 rank = free ? ~0U : dispensable(flow, table);

		vacancy->used += !free;
		if (i && rank <= vacancy->rank) /* a flow of this very tick has rank 0 */
			continue;
		vacancy->way = way;
		vacancy->digest = set->digest[way];
		vacancy->rank = rank;
		vacancy->stray = flow->flags & FLOW_STRAY;
	}
	return true;
}

/* Writes the entry unless another CPU took the way, or entered the flow, first. */
static __always_inline bool fill(struct flow_set *set, __u64 *tags, struct bpf_spin_lock *lock,
				 const struct vacancy *vacancy, const struct flow *flow,
				 __u64 digest)
{
	__u32 way = vacancy->way % WAYS;
	bool done = false;

	bpf_spin_lock(lock);
	if (set->digest[way] == vacancy->digest && find_way(set->digest, digest) < 0) {
		*tags = with_tag(*tags, way, 0);
		set->digest[way] = 0;
		set->flow[way] = *flow;
		set->digest[way] = digest;
		*tags = with_tag(*tags, way, tag_of(digest));
		done = true;
	}
	bpf_spin_unlock(lock);
	return done;
}

/*
 * Whether an entry makes way for a new one of its tuple: a stray, and what is idle. Any
 * other was made by another CPU just now.
 */
static __always_inline bool is_replaceable(const struct flow *old, const struct flow *flow,
					   enum table table)
{
	return old->flags & FLOW_STRAY ||
	       age_at(old->seen, flow->seen) > idle_limit(old, table);
}

/*
 * Writes over the entry of the flow's own tuple, if need be a live one. It was found a while
 * ago: another flow may have its way by now, or have had the digest all along.
 */
static __always_inline bool write_over(struct flow_set *set, struct bpf_spin_lock *lock,
				       const struct flow *flow, __u64 digest, enum table table,
				       bool over_live)
{
	bool done = false;
	int way;

	bpf_spin_lock(lock);
	way = find_way(set->digest, digest);
	if (way >= 0 && tuple_equal(&set->flow[way].tuple, &flow->tuple) &&
	    (over_live || is_replaceable(&set->flow[way], flow, table))) {
		set->flow[way] = *flow;
		done = true;
	}
	bpf_spin_unlock(lock);
	return done;
}

/* Lookups in this set go on to the second one from now on. */
static __always_inline void mark_overflowed(__u64 *tags, struct bpf_spin_lock *lock)
{
	if (*tags & OVERFLOWED)
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

/* Strays are no flows, and are not counted as such. */
static __always_inline enum placed refuse(const struct flow *flow, enum table table)
{
	if (!(flow->flags & FLOW_STRAY))
		count_event(EVENT_INSERT_FAILED_HALF_OPEN + table);
	return REFUSED;
}

/* Without a vacancy the flow's own entry was written over. */
static __always_inline enum placed accept(const struct flow *flow, const struct vacancy *vacancy,
					  enum table table)
{
	if (flow->flags & FLOW_STRAY)
		return PLACED;
	count_event(EVENT_ADMITTED_HALF_OPEN + table);
	if (!vacancy || vacancy->used < WAYS || vacancy->stray)
		return PLACED;
	count_event(EVENT_EVICTED_HALF_OPEN + table);
	if (table == TABLE_CONNECTIONLESS)
		mark(vacancy->digest);
	return PLACED;
}

static __always_inline enum placed replace(struct flow_set *set, struct bpf_spin_lock *lock,
					   const struct scratch *from, enum table table,
					   bool over_live)
{
	if (!lock || !write_over(set, lock, &from->flow, from->packet.digest, table, over_live))
		return refuse(&from->flow, table);
	return accept(&from->flow, NULL, table);
}

/*
 * enter_flow(), once. A global function, which the verifier looks at once only. That the way was
 * taken meanwhile is counted the last time.
 */
__noinline int insert(__u32 table, __u32 over_live, __u32 last)
{
	struct scratch *from = get_scratch();
	struct vacancy *vacancy, *alternative;
	struct flow_set *set, *other;
	struct bpf_spin_lock *lock;
	__u64 digest, *tags;
	__u32 index, second;

	if (!from || table > TABLE_CONNECTIONLESS)
		return REFUSED;
	vacancy = &from->vacancy[0];
	alternative = &from->vacancy[1];
	digest = from->packet.digest;
	index = first_set(digest, set_count(table));
	second = second_set(digest, set_count(table));
	set = get_set(table, index);
	tags = get_tags(table, index);
	lock = get_lock(index);
	other = get_set(table, second);
	if (!set || !tags || !lock || !other)
		return refuse(&from->flow, table);
	if (find_way(set->digest, digest) >= 0)
		return replace(set, lock, from, table, over_live);
	if (*tags & OVERFLOWED && find_way(other->digest, digest) >= 0)
		return replace(other, get_lock(second), from, table, over_live);
	if (!has_room(*tags, preferred_way(digest), vacancy))
		look_for_vacancy(table, index, 0);
	if (vacancy->used >= CROWDED) {
		look_for_vacancy(table, second, 1);
		if (alternative->used < vacancy->used ||
		    (alternative->used == WAYS && alternative->rank > vacancy->rank)) {
			mark_overflowed(tags, lock);
			set = other;
			tags = get_tags(table, second);
			lock = get_lock(second);
			*vacancy = *alternative;
		}
	}
	if (from->flow.flags & FLOW_STRAY && vacancy->rank < DISPENSABLE)
		return refuse(&from->flow, table);
	if (!tags || !lock)
		return refuse(&from->flow, table);
	if (!fill(set, tags, lock, vacancy, &from->flow, digest))
		return last ? refuse(&from->flow, table) : WAY_TAKEN;
	return accept(&from->flow, vacancy, table);
}

/*
 * Enters the scratch flow under the digest of the scratch packet, in the place of an idle
 * entry that its tuple has, or of any: a connection takes the place of the one before.
 * Returns whether it did. Where another CPU takes the way first, as happens in a flood, it
 * looks for another one: the next packet may be a SYN-ACK that has to find the entry. That
 * this happens twice, or that another flow has the digest, is counted; the flow has another
 * chance with its next packet.
 */
static __always_inline bool enter_flow(enum table table, bool over_live)
{
	int placed = insert(table, over_live, false);

	if (unlikely(placed == WAY_TAKEN))
		placed = insert(table, over_live, true);
	return placed == PLACED;
}

static __always_inline void remove_from(__u64 digest, enum table table, __u32 index)
{
	struct flow_set *set = get_set(table, index);
	struct bpf_spin_lock *lock = get_lock(index);
	__u64 *tags = get_tags(table, index);
	int way;

	if (!set || !tags || !lock || !tag_matches(*tags, digest))
		return;
	way = find_way(set->digest, digest);
	if (way < 0)
		return;
	bpf_spin_lock(lock);
	if (set->digest[way] == digest) {
		*tags = with_tag(*tags, way, 0);
		set->digest[way] = 0;
	}
	bpf_spin_unlock(lock);
}

static __noinline void remove(__u64 digest, enum table table)
{
	__u32 first = first_set(digest, set_count(table));
	__u64 *tags = get_tags(table, first);

	remove_from(digest, table, first);
	if (tags && *tags & OVERFLOWED)
		remove_from(digest, table, second_set(digest, set_count(table)));
}
