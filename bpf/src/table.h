/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The flow tables: look up, insert, remove. */
#pragma once

#include "mark.h"

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

/*
 * The flow of a set that has the digest. Most stand in the way that their digest
 * prefers: the processor, which is told to expect that, asks memory for the entry
 * without waiting for the digests, and of many flows neither is in a cache.
 */
static __always_inline struct flow *find_in_set(struct flow_set *set, __u64 digest)
{
	__u32 preferred = preferred_way(digest);
	int way;

	if (likely(set->digest[preferred] == digest))
		return &set->flow[preferred];
	way = find_way(set->digest, digest);
	return way >= 0 ? &set->flow[way] : NULL;
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

/* The entry with this digest, whatever its tuple. */
static __always_inline struct flow *find_digest(__u64 digest, enum table table)
{
	struct flow_set *set = get_set(table, first_set(digest, set_count(table)));
	struct flow *flow;

	if (!set)
		return NULL;
	flow = find_in_set(set, digest);
	if (likely(flow || !set->flow[0].overflowed))
		return flow;
	set = get_set(table, second_set(digest, set_count(table)));
	return set ? find_in_set(set, digest) : NULL;
}

/* The packet's flow in this table, idle or not. */
static __always_inline struct flow *find(const struct packet *packet, enum table table)
{
	struct flow *flow = find_digest(packet->digest, table);

	return flow && likely(tuple_equal(&flow->tuple, &packet->tuple)) ? flow : NULL;
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

/* Of ways that are as good as each other the one that the digest prefers, or is next to that. */
static __always_inline void look_for_vacancy(const struct flow_set *set, enum table table,
					     __u32 preferred, struct vacancy *vacancy)
{
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
}

/* Writes the entry unless another CPU took the way, or entered the flow, first. */
static __always_inline bool fill(struct flow_set *set, struct bpf_spin_lock *lock,
				 const struct vacancy *vacancy, const struct flow *flow,
				 __u64 digest)
{
	__u32 way = vacancy->way % WAYS;
	bool done = false;

	bpf_spin_lock(lock);
	if (set->digest[way] == vacancy->digest && find_way(set->digest, digest) < 0) {
		set->digest[way] = 0;
		replace(&set->flow[way], flow);
		set->digest[way] = digest;
		done = true;
	}
	bpf_spin_unlock(lock);
	return done;
}

/* Strays are no flows, and are not counted as such. */
static __always_inline bool refuse(const struct flow *flow, enum table table)
{
	if (!(flow->flags & FLOW_STRAY))
		count_event(EVENT_INSERT_FAILED_HALF_OPEN + table);
	return false;
}

static __always_inline bool accept(const struct flow *flow, const struct vacancy *vacancy,
				   enum table table)
{
	if (flow->flags & FLOW_STRAY)
		return true;
	count_event(EVENT_ADMITTED_HALF_OPEN + table);
	if (vacancy->used < WAYS || vacancy->stray)
		return true;
	count_event(EVENT_EVICTED_HALF_OPEN + table);
	if (table == TABLE_CONNECTIONLESS)
		mark(vacancy->digest);
	return true;
}

/*
 * Enters the scratch flow, which is not in the table, under the digest of the
 * scratch packet. Returns whether it did: another CPU may take the way first, or
 * another flow have the digest. Both are counted, and the flow has another chance
 * with its next packet.
 */
__noinline int insert(__u32 table)
{
	struct scratch *from = get_scratch();
	struct vacancy *vacancy, *alternative;
	struct flow_set *set, *other;
	struct bpf_spin_lock *lock;
	__u32 index, second;
	__u64 digest;

	if (!from || table > TABLE_CONNECTIONLESS)
		return false;
	vacancy = &from->vacancy[0];
	alternative = &from->vacancy[1];
	digest = from->packet.digest;
	index = first_set(digest, set_count(table));
	second = second_set(digest, set_count(table));
	set = get_set(table, index);
	other = get_set(table, second);
	if (!set || !other || find_digest(digest, table))
		return refuse(&from->flow, table);
	look_for_vacancy(set, table, preferred_way(digest), vacancy);
	if (vacancy->used >= CROWDED) {
		look_for_vacancy(other, table, preferred_way(digest), alternative);
		if (alternative->used < vacancy->used ||
		    (alternative->used == WAYS && alternative->rank > vacancy->rank)) {
			set->flow[0].overflowed = 1;
			set = other;
			index = second;
			*vacancy = *alternative;
		}
	}
	if (from->flow.flags & FLOW_STRAY && vacancy->rank < DISPENSABLE)
		return refuse(&from->flow, table);
	lock = get_lock(index);
	if (!lock || !fill(set, lock, vacancy, &from->flow, digest))
		return refuse(&from->flow, table);
	return accept(&from->flow, vacancy, table);
}

static __always_inline void remove_from(__u64 digest, enum table table, __u32 index)
{
	struct flow_set *set = get_set(table, index);
	struct bpf_spin_lock *lock = get_lock(index);
	int way;

	if (!set || !lock)
		return;
	way = find_way(set->digest, digest);
	if (way < 0)
		return;
	bpf_spin_lock(lock);
	if (set->digest[way] == digest)
		set->digest[way] = 0;
	bpf_spin_unlock(lock);
}

static __noinline void remove(__u64 digest, enum table table)
{
	remove_from(digest, table, first_set(digest, set_count(table)));
	remove_from(digest, table, second_set(digest, set_count(table)));
}
