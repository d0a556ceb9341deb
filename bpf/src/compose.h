/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Headers and checksums of the packets that the programs make out of others. */
#pragma once

#include "kernel.h"

#define DONT_FRAGMENT 0x4000
#define CONTROL_TRAFFIC 0xc0 /* RFC 1812, 4.3.2.5 */

/* The sum of 16-bit words, folded (RFC 1071). */
static __always_inline __be16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline __u64 sum(void *bytes, __u32 size, __u64 seed)
{
	return bpf_csum_diff(NULL, 0, bytes, size, seed);
}

/* `length`: bytes after the header. */
static __always_inline void compose_v4(struct iphdr *ip, __be32 source, __be32 destination,
				       __u8 protocol, __u32 length, __u8 hops)
{
	*(__u8 *)ip = 0x45; /* see ip_version() */
	ip->tos = CONTROL_TRAFFIC;
	ip->tot_len = bpf_htons(sizeof(*ip) + length);
	ip->id = 0;
	ip->frag_off = bpf_htons(DONT_FRAGMENT);
	ip->ttl = hops;
	ip->protocol = protocol;
	ip->check = 0;
	ip->saddr = source;
	ip->daddr = destination;
	ip->check = fold(sum(ip, sizeof(*ip), 0));
}

static __always_inline void compose_v6(struct ipv6hdr *ip, const void *source,
				       const void *destination, __u8 protocol, __u32 length,
				       __u8 hops)
{
	*(__be32 *)ip = bpf_htonl(6 << 28 | CONTROL_TRAFFIC << 20);
	ip->payload_len = bpf_htons(length);
	ip->nexthdr = protocol;
	ip->hop_limit = hops;
	__builtin_memcpy(&ip->saddr, source, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, destination, sizeof(ip->daddr));
}

/* Of RFC 9293, 3.1; `length`: bytes after the IP header. */
static __always_inline __u64 pseudo_header_v4(struct iphdr *ip, __u8 protocol, __u32 length)
{
	return sum(&ip->saddr, 2 * sizeof(ip->saddr), bpf_htonl(length + protocol));
}

/* Of RFC 8200, 8.1. */
static __always_inline __u64 pseudo_header_v6(struct ipv6hdr *ip, __u8 protocol, __u32 length)
{
	return sum(&ip->saddr, 2 * sizeof(ip->saddr), bpf_htonl(length + protocol));
}
