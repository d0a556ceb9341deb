/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * 64 bits that stand for a tuple: where it is looked for, and how it is told from most others before the tuples are
 * compared.
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
