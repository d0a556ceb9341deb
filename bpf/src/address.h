/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses: 16 bytes in network order, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). */
#pragma once

#include "maps.h"

#define MAPPED_PREFIX bpf_htonl(0xffff)

/* Two 32-bit words as they follow one another in memory. */
static inline __u64 join_words(__u32 first, __u32 second)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return first | (__u64)second << 32;
#else
	return (__u64)first << 32 | second;
#endif
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
 * None of the unspecified, loopback, link-local, multicast and broadcast addresses. What else is reserved (0.0.0.0/8,
 * 240.0.0.0/4) the kernel takes for unicast: include/linux/in.h, ipv4_is_zeronet().
 */
static inline bool v4_is_ordinary(__be32 v4)
{
	__u32 a = bpf_ntohl(v4);

	return a && a >> 24 != 127 && a >> 16 != 0xa9fe && a >> 28 != 14 && a != 0xffffffff;
}

/* Unspecified, loopback, link-local and multicast: RFC 4291. */
static inline bool v6_is_ordinary(const __u32 *word)
{
	__u32 first = bpf_ntohl(word[0]);

	if (!word[0] && !word[1] && !word[2] && bpf_ntohl(word[3]) <= 1)
		return false;
	return first >> 24 != 0xff && first >> 22 != 0xfe80 >> 6;
}

/* A unicast address that is more than link-local: only such make a flow. */
static inline bool address_is_ordinary(const __u8 *address)
{
	const __u32 *word = (const __u32 *)address;

	if (address_is_v4(address))
		return v4_is_ordinary(word[3]);
	return v6_is_ordinary(word);
}

static inline bool masked_equal(const __u8 *address, const __u64 *want, const __u64 *mask)
{
	const __u64 *word = (const __u64 *)address;

	return !(((word[0] & mask[0]) ^ want[0]) | ((word[1] & mask[1]) ^ want[1]));
}

/* MAC addresses stand at even offsets everywhere; a memcpy would not rely on that. */
static inline void copy_mac(void *to, const void *from)
{
	__u16 *target = to;
	const __u16 *source = from;

	target[0] = source[0];
	target[1] = source[1];
	target[2] = source[2];
}

/* enum own_flags, 0 for an address that is not this host's. */
static inline __u32 own_address(const __u8 *address)
{
	__u32 *flags = bpf_map_lookup_elem(&own_addresses, address);

	return flags ? *flags : 0;
}

/* The same of an address that no interface has. */
static inline __u32 served_address(const __u8 *address)
{
	struct served_key key = { .prefix_length = 128 };
	__u32 *flags;

	__builtin_memcpy(key.address, address, sizeof(key.address));
	flags = bpf_map_lookup_elem(&served_addresses, &key);
	return flags ? *flags : 0;
}

/* enum on_link_flags, 0 for an address that is no neighbour by this device. */
static inline __u32 on_link_flags_of(const __u8 *address, __u32 ifindex)
{
	struct on_link_key key = { .prefix_length = 32 + 128, .ifindex = ifindex };
	__u32 *flags;

	__builtin_memcpy(key.address, address, sizeof(key.address));
	flags = bpf_map_lookup_elem(&on_link, &key);
	return flags ? *flags : 0;
}
