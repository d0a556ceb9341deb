/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tags: seven bits of each digest of a set, in one number of eight bytes.
 *
 * The tables are far larger than any cache, their tags are not. They tell, without a look at the set, that a tuple is
 * not in it (but for one of 20 or so that are not), and else in which way it is: so the processor need not guess where
 * to read, and has the next packets under way while memory answers.
 *
 * All eight are compared at once by arithmetic (Lamport 1975, "Multiple byte processing with full-word instructions").
 * A byte's top bit is not part of the tag; that of the first one is OVERFLOWED.
 */
#pragma once

#include "maps.h"

#define EACH_BYTE 0x0101010101010101ULL
#define TAG_BITS (0x7f * EACH_BYTE)
#define OVERFLOWED 0x80ULL /* others of the set may be in their second one */

/* 1 to 127; 0 is the tag of a free way. Bits that hardly matter to the choice of the sets. */
static inline __u64 tag_of(__u64 digest)
{
	return ((digest & 0x3ff) * 127 >> 10) + 1;
}

/* The ways with this digest's tag: the top bits of their bytes. */
static inline __u64 tag_matches(__u64 tags, __u64 digest)
{
	__u64 difference = (tags ^ tag_of(digest) * EACH_BYTE) & TAG_BITS;

	return ~(difference + TAG_BITS) & ~TAG_BITS;
}

/* The free ways: the top bits of their bytes. */
static inline __u64 free_ways(__u64 tags)
{
	return ~((tags & TAG_BITS) + TAG_BITS) & ~TAG_BITS;
}

static inline __u32 count_ways(__u64 ways)
{
	return (ways >> 7) * EACH_BYTE >> 56;
}

/* The same ways, counted from this one on. */
static inline __u64 ways_from(__u64 ways, __u32 way)
{
	__u32 shift = 8 * (way % WAYS);

	return shift ? ways >> shift | ways << (64 - shift) : ways;
}

/* The lowest way of some matches: the only bit of `lowest`, at 8 times the way, shifts it to the number's top. */
static inline __u32 first_match(__u64 matches)
{
	const __u64 ways = 0ULL << 61 | 1ULL << 53 | 2ULL << 45 | 3ULL << 37 |
			   4ULL << 29 | 5ULL << 21 | 6ULL << 13 | 7ULL << 5;
	__u64 lowest = (matches & -matches) >> 7;

	_Static_assert(WAYS == 8, "a byte for each way");
	return lowest * ways >> 61;
}

/* The tags of a set where a way has another one; 0 frees the way. */
static inline __u64 with_tag(__u64 tags, __u32 way, __u64 tag)
{
	__u32 shift = 8 * (way % WAYS);

	return (tags & ~(0x7fULL << shift)) | tag << shift;
}
