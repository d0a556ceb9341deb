/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The negative cache: what is known to begin no flow costs little. It has two places.
 *
 * `marks` has tuples by themselves:
 * - of TCP, what proved to be no flow (forwarded, or without a socket);
 * - any other whose flow was pushed out of a full table, so that the answer to the last question does not pass for a
 *   beginning.
 *
 * `foreign` has two kinds of facts, each under a number of its own:
 * - tuples by which the host sends what starts nothing: cache_no_beginning();
 * - addresses that are not ours by an interface: mark_foreign_address(). They may come to this host at any moment.
 *
 * An entry lasts for the rest of its period and the next one, of 1024 ticks each (16 s at 1000 Hz, 65 s at 250 Hz),
 * unless what admission asks changes. That of an address lasts for 8 to 16 ticks.
 */
#pragma once

#include "flow.h"
#include "settings.h"

static inline __u64 *mark_slot(__u64 digest)
{
	__u32 index = (digest >> 1) % MARKS; /* the lowest bit is always set */

	return bpf_map_lookup_elem(&marks, &index);
}

static inline __u32 period(void)
{
	return now() >> 10;
}

/* The same for addresses. */
static inline __u32 moment(void)
{
	return now() >> 3;
}

static inline __u32 generation(void)
{
	struct settings *settings = get_settings();

	return settings ? settings->generation : 0;
}

/* The digest as it is marked in this period, or at this moment. */
static inline __u64 mark_of(__u64 digest, __u32 generation, __u32 when)
{
	return digest ^ (__u64)when << 32 ^ generation;
}

static inline bool is_mark_of(__u64 mark, __u64 digest, __u32 generation, __u32 period)
{
	__u64 when = mark ^ digest;

	return (__u32)when == generation && period - (__u32)(when >> 32) <= 1;
}

/* The generation is that of before what is marked was found out: what changed meanwhile makes the mark void. */
static inline void mark(__u64 digest, __u32 generation)
{
	__u64 *slot = mark_slot(digest);

	if (slot)
		*slot = mark_of(digest, generation, period());
}

static inline void unmark(__u64 digest)
{
	__u64 *slot = mark_slot(digest);

	if (slot && is_mark_of(*slot, digest, generation(), period()))
		*slot = 0;
}

static inline bool is_marked(__u64 digest)
{
	const __u64 *slot = mark_slot(digest);

	return slot && is_mark_of(*slot, digest, generation(), period());
}

static inline struct foreign_set *get_foreign_set(__u64 digest)
{
	__u32 index = (digest >> 1) % FOREIGN_SETS;

	return bpf_map_lookup_elem(&foreign, &index);
}

/* Whether there is a mark of this period, or the one before. */
static inline bool is_negative(__u64 digest, __u32 period)
{
	const struct foreign_set *set = get_foreign_set(digest);
	__u32 now_in_force = generation();

	if (!set)
		return false;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < FOREIGN_WAYS; i++)
		if (is_mark_of(set->mark[i], digest, now_in_force, period))
			return true;
	return false;
}

static inline bool begins_no_flow(__u64 digest)
{
	return is_negative(digest, period());
}

/* Whether nothing that is addressed to it, or comes from it, is ours, if it came in by this interface. */
static inline bool is_foreign_address(const struct packet *packet, __u32 ifindex)
{
	return is_negative(self_digest(&packet->tuple, ifindex), moment());
}

/* As mark(). What this period has marked is left alone: others read it at this moment. */
static inline void add_negative(__u64 digest, __u32 generation, __u32 period)
{
	struct foreign_set *set = get_foreign_set(digest);
	__u64 mark = mark_of(digest, generation, period);

	if (!set)
		return;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < FOREIGN_WAYS; i++)
		if (set->mark[i] == mark)
			return;
#pragma clang loop unroll(full)
	for (__u32 i = FOREIGN_WAYS - 1; i > 0; i--)
		set->mark[i] = set->mark[i - 1];
	set->mark[0] = mark;
}

static inline void cache_no_beginning(__u64 digest, __u32 generation)
{
	add_negative(digest, generation, period());
}

static inline void mark_foreign_address(const struct packet *packet, __u32 ifindex, __u32 generation)
{
	add_negative(self_digest(&packet->tuple, ifindex), generation, moment());
}

static inline void unmark_foreign_address(const struct packet *packet, __u32 ifindex)
{
	__u64 digest = self_digest(&packet->tuple, ifindex);
	struct foreign_set *set = get_foreign_set(digest);
	__u32 now_in_force = generation();

	if (!set)
		return;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < FOREIGN_WAYS; i++)
		if (is_mark_of(set->mark[i], digest, now_in_force, moment()))
			set->mark[i] = 0;
}
