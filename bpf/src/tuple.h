/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tuples: addresses, how they compare, and digests, by which tuples are looked for. */
#pragma once

#include "maps.h"

#define MAPPED_PREFIX bpf_htonl(0xffff)

/* Two 32-bit words as they follow one another in memory. */
static inline __u64 join_words(__u32 first, __u32 second)
{
	__u32 words[] = { first, second };

	return *(__u64 *)words;
}

static inline void address_from_v4(__u8 *address, __be32 v4)
{
	__u64 *half = (__u64 *)address;

	half[0] = 0;
	half[1] = join_words(MAPPED_PREFIX, v4);
}

/* Read as headers are aligned, written as it will be compared: a load waits for all stores that it spans. */
static inline void address_from_v6(__u8 *address, const struct in6_addr *v6)
{
	const __u32 *word = v6->in6_u.u6_addr32;
	__u64 *half = (__u64 *)address;

	half[0] = join_words(word[0], word[1]);
	half[1] = join_words(word[2], word[3]);
}

/* By one comparison: after each of several the verifier would go on with what it learned. */
static inline bool address_is_v4(const __u8 *address)
{
	const __u32 *word = (const __u32 *)address;

	return !(word[0] | word[1] | (word[2] ^ MAPPED_PREFIX));
}

static inline bool address_equal(const __u8 *a, const __u8 *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]));
}

/*
 * None of the unspecified, loopback, link-local, multicast and broadcast addresses (RFC 4291): only others make a flow.
 * What else is reserved of IPv4 (0.0.0.0/8, 240.0.0.0/4) the kernel takes for unicast: include/linux/in.h,
 * ipv4_is_zeronet().
 */
static inline bool address_is_ordinary(const __u8 *address)
{
	const __u32 *word = (const __u32 *)address;
	__u32 first = bpf_ntohl(word[0]), last = bpf_ntohl(word[3]);

	if (address_is_v4(address))
		return last && last >> 24 != 127 && last >> 16 != 0xa9fe && last >> 28 != 14 && last != 0xffffffff;
	return (word[0] | word[1] | word[2] || last > 1) && first >> 24 != 0xff && first >> 22 != 0xfe80 >> 6;
}

static inline bool masked_equal(const __u8 *address, const __u64 *want, const __u64 *mask)
{
	const __u64 *word = (const __u64 *)address;

	return !(((word[0] & mask[0]) ^ want[0]) | ((word[1] & mask[1]) ^ want[1]));
}

/* MAC addresses stand at even offsets everywhere; a memcpy would not rely on that. */
static inline void copy_mac(void *to, const void *from)
{
	for (int i = 0; i < ETH_ALEN / 2; i++)
		((__u16 *)to)[i] = ((const __u16 *)from)[i];
}

/* enum own_flags; 0: not this host's. */
static inline __u32 own_address(const __u8 *address)
{
	__u32 *flags = bpf_map_lookup_elem(&own_addresses, address);

	return flags ? *flags : 0;
}

/*
 * Every 32 bits are multiplied by a secret odd number of 64 bits (multiply-shift hashing, Dietzfelbinger 1996), so that
 * nobody outside can aim at a bucket; a last round spreads tuples that differ in a few bits. Two live flows with one
 * digest are a matter of 1 in 2^32 at worst: the second is not recorded, which is counted.
 */
#define DIGEST_MULTIPLIER 0x9e3779b97f4a7c15ULL /* odd: 2^64 over the golden ratio */

static inline __u64 finish_digest(__u64 sum)
{
	__u64 product = (sum ^ sum >> 32) * DIGEST_MULTIPLIER;

	return (product ^ product >> 32) | 1; /* the low bits of a product depend on few others; never 0 */
}

/* Of both addresses. Of IPv4's the halves that are always the same are left out. */
static inline __u64 sum_of_addresses(const struct tuple *tuple, __u8 family)
{
	const __u32 *word = (const __u32 *)tuple;
	__u64 sum = word[3] * digest_seed[3] + word[7] * digest_seed[7];

	if (family == 6)
		sum += word[0] * digest_seed[0] + word[1] * digest_seed[1] +
		       word[2] * digest_seed[2] + word[4] * digest_seed[4] +
		       word[5] * digest_seed[5] + word[6] * digest_seed[6];
	return sum;
}

static inline __u64 digest(const struct tuple *tuple, __u8 family)
{
	const __u32 *word = (const __u32 *)tuple;

	_Static_assert(sizeof(*tuple) == 40, "ten words");
	return finish_digest(sum_of_addresses(tuple, family) + word[8] * digest_seed[8] + word[9] * digest_seed[9]);
}

/* Of the addresses alone. */
static inline __u64 ends_digest(const struct tuple *tuple)
{
	return finish_digest(sum_of_addresses(tuple, 6));
}

static inline bool tuple_equal(const struct tuple *a, const struct tuple *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}
