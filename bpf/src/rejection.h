/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rejections, which the programs make out of a packet and send back to its sender: ICMP errors and RSTs. */
#pragma once

#include "parse.h"

/* The checksum of these bytes (RFC 1071), with what was summed up before. */
static inline __be16 checksum_of(void *bytes, __u32 size, __u64 seed)
{
	__u32 sum = bpf_csum_diff(NULL, 0, bytes, size, seed);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static inline __u32 ip_size(bool v4)
{
	return v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

#define LOCAL_HOPS 255 /* of what never leaves the host; RFC 5082 takes no less */

/* The IP header of a rejection, from the address that the quoted packet goes to. `length`: bytes after the header. */
static inline void write_ip(struct rejection *rejection, bool v4, __u8 protocol, __u32 length)
{
	if (v4) {
		const struct iphdr *quoted = (const struct iphdr *)rejection->quote;
		struct iphdr *ip = (struct iphdr *)(&rejection->type - sizeof(*ip));

		__builtin_memset(ip, 0, sizeof(*ip));
		*(__u8 *)ip = 0x45; /* see ip_version() */
		ip->tot_len = bpf_htons(sizeof(*ip) + length);
		ip->ttl = LOCAL_HOPS;
		ip->protocol = protocol;
		ip->saddr = quoted->daddr;
		ip->daddr = quoted->saddr;
		ip->check = checksum_of(ip, sizeof(*ip), 0);
	} else {
		const struct ipv6hdr *quoted = (const struct ipv6hdr *)rejection->quote;
		struct ipv6hdr *ip = (struct ipv6hdr *)rejection->ip;

		*(__be32 *)ip = bpf_htonl(6 << 28);
		ip->payload_len = bpf_htons(length);
		ip->nexthdr = protocol;
		ip->hop_limit = LOCAL_HOPS;
		__builtin_memcpy(&ip->saddr, &quoted->daddr, sizeof(ip->saddr));
		__builtin_memcpy(&ip->daddr, &quoted->saddr, sizeof(ip->daddr));
	}
}

/* The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1): the addresses, which end the IP header, and these two. */
static inline __u64 pseudo_header(struct rejection *rejection, bool v4, __u8 protocol, __u32 length)
{
	__u32 addresses = v4 ? 2 * sizeof(__be32) : 2 * sizeof(struct in6_addr);

	return bpf_csum_diff(NULL, 0, (__be32 *)(&rejection->type - addresses), addresses,
			     bpf_htonl(length + protocol));
}

/*
 * Puts the rejection in the place of the packet, with the device's own MAC before it; false where that cannot be done:
 * the packet is then what it was. bpf_skb_change_head() by nothing first gives it memory of its own: so nothing fails
 * half-way for want of memory, nor reaches the copy that TCP keeps.
 */
static inline bool become(struct __sk_buff *skb, struct rejection *rejection, bool v4, __u32 header, __u32 length)
{
	__u8 mac[ETH_ALEN] = {};

	length += ip_size(v4);
	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), mac, sizeof(mac)) ||
	    bpf_skb_change_head(skb, 0, 0) || bpf_skb_change_tail(skb, header + length, 0))
		return false;
	/* The packet is linear and not shared now: what is written to it is written. */
	bpf_skb_store_bytes(skb, header, &rejection->type - ip_size(v4), length, 0);
	if (header)
		bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), mac, sizeof(mac), 0);
	return true;
}

/* Turns the packet into an ICMP error about it, which quotes so many bytes of it; false where that cannot be done. */
static inline bool become_error(struct __sk_buff *skb, struct rejection *error, bool v4, __u32 header, __u8 type,
				__u8 code, __u32 mtu, __u32 quoted)
{
	__u8 protocol = v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	__u32 length = ERROR_HEADER + quoted;

	write_ip(error, v4, protocol, length);
	error->type = type;
	error->code = code;
	error->checksum = 0;
	error->mtu = bpf_htonl(mtu);
	error->checksum = checksum_of(&error->type, length, v4 ? 0 : pseudo_header(error, v4, protocol, length));
	return become(skb, error, v4, header, length);
}
