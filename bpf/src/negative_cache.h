/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The negative cache: what is known to begin no flow costs little. A mark says something of a digest: enum mark_kind. It
 * lasts for the rest of its period and the next one, of 1024 ticks each (16 s at 1000 Hz, 65 s at 250 Hz), unless what
 * admission asks changes.
 */
#pragma once

#include "flow.h"

static inline struct mark_set *get_marks(enum mark_kind kind, __u64 digest)
{
	__u32 of_kind = kind == MARK_FOREIGN ? FOREIGN_SETS : MARK_SETS;
	__u32 index = kind * MARK_SETS + (digest >> 1) % of_kind; /* the lowest bit is always set */

	return bpf_map_lookup_elem(&marks, &index);
}

static inline __u32 period(void)
{
	return now() >> 10;
}

static inline __u32 generation(void)
{
	struct settings *settings = get_settings();

	return settings ? settings->generation : 0;
}

/* The digest as it is marked in this period. */
static inline __u64 mark_of(__u64 digest, __u32 generation, __u32 period)
{
	return digest ^ (__u64)period << 32 ^ generation;
}

static inline bool is_mark_of(__u64 mark, __u64 digest, __u32 generation, __u32 period)
{
	__u64 when = mark ^ digest;

	return (__u32)when == generation && period - (__u32)(when >> 32) <= 1;
}

static inline bool is_marked(enum mark_kind kind, __u64 digest)
{
	const struct mark_set *set = get_marks(kind, digest);
	__u32 in_force = generation(), time = period();

	if (!set)
		return false;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < MARK_WAYS; i++)
		if (is_mark_of(set->mark[i], digest, in_force, time))
			return true;
	return false;
}

/*
 * The generation is that of before what is marked was found out: what changed meanwhile makes the mark void. The oldest
 * mark of the set makes room.
 */
static inline void put_mark(enum mark_kind kind, __u64 digest, __u32 generation)
{
	struct mark_set *set = get_marks(kind, digest);
	__u64 mark = mark_of(digest, generation, period());

	if (!set)
		return;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < MARK_WAYS; i++)
		if (set->mark[i] == mark) /* left alone: others read it at this moment */
			return;
#pragma clang loop unroll(full)
	for (__u32 i = MARK_WAYS - 1; i > 0; i--)
		set->mark[i] = set->mark[i - 1];
	set->mark[0] = mark;
}

static inline void clear_mark(enum mark_kind kind, __u64 digest)
{
	struct mark_set *set = get_marks(kind, digest);
	__u32 in_force = generation(), time = period();

	if (!set)
		return;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < MARK_WAYS; i++)
		if (is_mark_of(set->mark[i], digest, in_force, time))
			set->mark[i] = 0;
}

/* Whether it is known that nothing which is addressed to it, or comes from it, is ours, if it came in by this interface. */
static inline bool is_foreign_address(const struct packet *packet, __u32 ifindex)
{
	return is_marked(MARK_FOREIGN, self_digest(&packet->tuple, ifindex));
}

static inline void mark_foreign_address(const struct packet *packet, __u32 ifindex, __u32 generation)
{
	put_mark(MARK_FOREIGN, self_digest(&packet->tuple, ifindex), generation);
}
