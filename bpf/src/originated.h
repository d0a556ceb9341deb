/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table of what this host originates by another interface than that of its source. A digest picks one set. Of a full
 * one the tuple that was quiet longest makes room, if that was a second: another CPU may still write to its record then.
 * What finds none has no record: it is moved all the same.
 */
#pragma once

#include "table.h"

static inline struct originated_set *get_originated(__u64 digest)
{
	__u32 index = first_set(digest, ORIGINATED_SETS);

	return bpf_map_lookup_elem(&originated, &index);
}

/* The record of a tuple, nearly always in the way that its digest prefers; NULL for none. */
static inline struct originated_tuple *find_originated(__u64 digest)
{
	struct originated_set *set = get_originated(digest);
	__u32 preferred = preferred_way(digest);
	int way;

	if (!set)
		return NULL;
	if (likely(set->digest[preferred] == digest))
		return &set->tuple[preferred];
	way = find_way(set->digest, digest);
	return way < 0 ? NULL : &set->tuple[way];
}

/*
 * The way of the set for a new tuple: a free one, else that of the quietest; of those that are as good as each other
 * the one that the digest prefers, or is next to that. In memory that the verifier does not follow: see find_mss().
 * Returns false where all are in use.
 */
static inline bool look_for_quietest(const struct originated_set *set, __u64 digest, __u32 time,
				     volatile struct vacancy *quietest)
{
	quietest->rank = 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < WAYS; i++) {
		__u32 way = (preferred_way(digest) + i) % WAYS;
		__u32 rank = set->digest[way] ? age_at(set->tuple[way].seen, time) : OVER;

		if (i && rank <= quietest->rank)
			continue;
		quietest->way = way;
		quietest->rank = rank;
	}
	return quietest->rank >= seconds(1);
}

/* Makes a record of the scratch packet's tuple, in which nothing is decided, unless it has one. NULL: no room. */
static inline struct originated_tuple *record_originated(struct scratch *from, __u16 chosen, __u16 source)
{
	__u64 digest = from->packet.digest;
	struct originated_tuple fresh = { .tuple = from->packet.tuple, .from = chosen, .to = source,
					  .decision = digest };
	struct bpf_spin_lock *lock = get_lock(first_set(digest, ORIGINATED_SETS));
	struct originated_set *set = get_originated(digest);
	int way;

	if (!set || !lock)
		return NULL;
	fresh.created = fresh.seen = now();
	bpf_spin_lock(lock);
	way = find_way(set->digest, digest);
	if (likely(way < 0) && look_for_quietest(set, digest, fresh.seen, &from->vacancy[0])) {
		way = from->vacancy[0].way % WAYS;
		set->digest[way] = 0;
		order();
		set->tuple[way] = fresh;
		order();
		set->digest[way] = digest;
	}
	bpf_spin_unlock(lock);
	return way < 0 ? NULL : &set->tuple[(__u32)way % WAYS];
}
