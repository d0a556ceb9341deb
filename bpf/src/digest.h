/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Digests: 64 bits that stand for a tuple: where it is looked for, and how it is told from most others before the tuples
 * are compared. Tags, below, are a few bits of these.
 *
 * Every 32 bits are multiplied by a secret odd number of 64 bits (multiply-shift hashing, Dietzfelbinger 1996), so that
 * nobody outside can aim at a set; a last round spreads tuples that differ in a few bits. Two live flows with one
 * digest are a matter of 1 in 2^32 at worst: the second is not recorded, which is counted.
 */
#pragma once

#include "maps.h"

#define DIGEST_MULTIPLIER 0x9e3779b97f4a7c15ULL /* odd: 2^64 over the golden ratio */

static inline __u64 finish_digest(__u64 sum)
{
	return (sum ^ sum >> 32) * DIGEST_MULTIPLIER | 1; /* 0 marks a free way */
}

/* Of an IPv4 tuple the halves that are always the same are left out. */
static inline __u64 digest(const struct tuple *tuple, __u8 family)
{
	const __u32 *word = (const __u32 *)tuple;
	__u64 sum = word[3] * digest_seed[3] + word[7] * digest_seed[7] +
		    word[8] * digest_seed[8] + word[9] * digest_seed[9];

	_Static_assert(sizeof(*tuple) == 40, "ten words");
	if (family == 6)
		sum += word[0] * digest_seed[0] + word[1] * digest_seed[1] +
		       word[2] * digest_seed[2] + word[4] * digest_seed[4] +
		       word[5] * digest_seed[5] + word[6] * digest_seed[6];
	return finish_digest(sum);
}

/* Of its own address, in which ::a.b.c.d is not a.b.c.d, and an interface alone. */
static inline __u64 self_digest(const struct tuple *tuple, __u32 ifindex)
{
	const __u32 *word = (const __u32 *)tuple->self;

	return finish_digest(word[0] * digest_seed[4] + word[1] * digest_seed[5] +
			     word[2] * digest_seed[6] + word[3] * digest_seed[7] +
			     ifindex * digest_seed[8]);
}

/* Numbers below `count`, from the two halves of the digest. */
static inline __u32 first_set(__u64 digest, __u32 count)
{
	return (digest >> 32) * count >> 32;
}

static inline __u32 second_set(__u64 digest, __u32 count)
{
	return (digest & 0xffffffff) * count >> 32;
}

/* From bits that hardly matter to the choice of the sets; the lowest is always set. */
static inline __u32 preferred_way(__u64 digest)
{
	return (digest >> 1) % WAYS;
}

static inline bool tuple_equal(const struct tuple *a, const struct tuple *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

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
