/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a frame to the tuple of its flow. Reads only: see reply.h, write_macs(). */
#pragma once

#include "tuple.h"
#include "count.h"

#define MAX_EXTENSION_HEADERS 8

#define FRAGMENT_OFFSET 0x1fff    /* IPv4, RFC 791 */
#define MORE_FRAGMENTS 0x2000
#define FRAGMENT_OFFSET_V6 0xfff8 /* IPv6, RFC 8200 */
#define MORE_FRAGMENTS_V6 1

enum parsed {
	PARSED = 0,
	PARSED_OTHER, /* nothing that replypath looks at */
	PARSED_ERROR, /* an ICMP error of ours: it quotes the packet that it is about */
	PARSED_TRUNCATED, /* from here on: in the order of their events */
	PARSED_MALFORMED,
	PARSED_EXTENSION_HEADERS, /* more than we follow */
	PARSED_FRAGMENT,          /* a later one: no ports */
	PARSED_SOURCE_ROUTE,      /* the address in the header is not the last one */
};

static inline bool has_addresses(enum parsed result)
{
	return result == PARSED || result == PARSED_ERROR || result == PARSED_FRAGMENT;
}

/* As in <linux/icmp.h>, which drags libc in. A struct icmp6hdr is ICMP's header as well (RFC 792; RFC 4443, 2.1). */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_TIMESTAMP 13 /* asked and answered as echo is */
#define ICMP_TIMESTAMPREPLY 14

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* QUOTED: it came in, and what an ICMP error shows of it ends anywhere; packet->length says how much that is. */
enum direction { INBOUND, OUTBOUND, QUOTED };

/*
 * The bytes of the frame at an offset, NULL where it ends before; valid until the next call. Drivers may leave headers
 * in fragments, and far offsets are rare: a helper copies those into the scratch memory.
 */
static inline const void *peek(const struct __sk_buff *skb, __u32 offset, __u32 size)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct scratch *scratch;

	if (likely(offset < 128 && data + offset + size <= end))
		return data + offset;
	scratch = get_scratch();
	return bpf_skb_load_bytes(skb, offset, scratch->header, size) ? NULL : scratch->header;
}

/* Ports and protocol by one store (see address_from_v6). `ports`: as in the header, source first. */
static inline void set_ports(struct packet *packet, enum direction direction, __u32 ports)
{
	__u32 protocol = bpf_htonl((__u32)packet->protocol << 24);

	if (direction == OUTBOUND)
		ports = ports << 16 | ports >> 16;
	((__u64 *)&packet->tuple)[4] = join_words(ports, protocol);
}

static inline enum parsed parse_tcp(const struct __sk_buff *skb, struct packet *packet,
				    enum direction direction)
{
	const struct tcphdr *tcp = peek(skb, packet->offset, sizeof(*tcp));
	__u32 header;

	if (!tcp)
		return PARSED_TRUNCATED;
	header = ((const __u8 *)tcp)[12] / 16 * 4; /* the data offset, without a bit field: see below */
	if (header < sizeof(*tcp) || header > packet->length)
		return PARSED_MALFORMED;
	set_ports(packet, direction, *(const __u32 *)tcp);
	packet->tcp_flags = ((const __u8 *)tcp)[13];
	packet->seq = bpf_ntohl(tcp->seq);
	packet->ack = bpf_ntohl(tcp->ack_seq);
	packet->payload = packet->length - header;
	return PARSED;
}

/* UDP and SCTP (RFC 9260, 3.1) begin alike: source port, destination port, 4 bytes. */
static inline enum parsed parse_ports(const struct __sk_buff *skb, struct packet *packet,
				      enum direction direction)
{
	const struct udphdr *header;

	if (packet->length < sizeof(*header))
		return PARSED_MALFORMED;
	header = peek(skb, packet->offset, sizeof(*header));
	if (!header)
		return PARSED_TRUNCATED;
	set_ports(packet, direction, *(const __u32 *)header);
	packet->payload = packet->length - sizeof(*header);
	return PARSED;
}

/* Of what comes in only echo and timestamps are ours, which have an identifier at the same place. */
static inline enum parsed parse_icmp(const struct __sk_buff *skb, struct packet *packet,
				     enum direction direction)
{
	bool v4 = packet->family == 4, is_error;
	const struct icmp6hdr *icmp;
	__u8 type;

	if (packet->length < sizeof(*icmp))
		return PARSED_MALFORMED;
	icmp = peek(skb, packet->offset, sizeof(*icmp));
	if (!icmp)
		return PARSED_TRUNCATED;
	type = icmp->icmp6_type;
	/* Redirects are no errors. */
	is_error = v4 ? type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB
		      : type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB;
	if (direction == OUTBOUND && unlikely(is_error))
		return PARSED_ERROR;
	packet->echo_request = v4 ? type == ICMP_ECHO || type == ICMP_TIMESTAMP : type == ICMPV6_ECHO_REQUEST;
	packet->echo_reply = v4 ? type == ICMP_ECHOREPLY || type == ICMP_TIMESTAMPREPLY : type == ICMPV6_ECHO_REPLY;
	if (icmp->icmp6_code || !(packet->echo_request || packet->echo_reply))
		return PARSED_OTHER;
	/* The identifier stands in for the peer's port. */
	set_ports(packet, INBOUND, bpf_htonl((__u32)bpf_ntohs(icmp->icmp6_identifier) << 16));
	return PARSED;
}

static inline enum parsed parse_transport(const struct __sk_buff *skb, struct packet *packet,
					  enum direction direction)
{
	switch (packet->protocol) {
	case IPPROTO_TCP:
		if (direction != QUOTED)
			return parse_tcp(skb, packet, direction);
		/* of which an error need not show more than the ports */
		__attribute__((fallthrough));
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		return parse_ports(skb, packet, direction);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if ((packet->protocol == IPPROTO_ICMP) != (packet->family == 4))
			return PARSED_OTHER;
		return parse_icmp(skb, packet, direction);
	default:
		set_ports(packet, direction, 0);
		return PARSED;
	}
}

/* The first four bits; bit fields are laid out by the byte order of the compiling machine. */
static inline __u32 ip_version(const void *ip)
{
	return *(const __u8 *)ip >> 4;
}

/* `header`: bytes before the IP header. */
static inline enum parsed parse_v4(const struct __sk_buff *skb, struct packet *packet,
				   enum direction direction, __u32 header)
{
	__u32 length = direction == QUOTED ? packet->length : skb->len - header, options, total;
	const struct iphdr *ip = peek(skb, header, sizeof(*ip));

	if (!ip)
		return PARSED_TRUNCATED;
	options = (*(const __u8 *)ip & 0xf) * 4; /* the header with its options */
	/* 0 in a GSO packet of more than 64 KiB (kernel: BIG TCP). */
	total = direction != QUOTED && (ip->tot_len || !skb->gso_size) ? bpf_ntohs(ip->tot_len) : length;
	if (ip_version(ip) != 4 || options < sizeof(*ip) || total < options)
		return PARSED_MALFORMED;
	if (total > length)
		return PARSED_TRUNCATED;

	packet->family = 4;
	packet->protocol = ip->protocol;
	packet->offset = header + options;
	packet->length = total - options;
	address_from_v4(packet->tuple.peer, direction != OUTBOUND ? ip->saddr : ip->daddr);
	address_from_v4(packet->tuple.self, direction != OUTBOUND ? ip->daddr : ip->saddr);
	if (unlikely(ip->frag_off & bpf_htons(MORE_FRAGMENTS | FRAGMENT_OFFSET))) {
		packet->identification = ip->id | ip->protocol << 16; /* RFC 791, 3.2 */
		if (ip->frag_off & bpf_htons(FRAGMENT_OFFSET))
			return PARSED_FRAGMENT;
		packet->fragment = true;
	}
	return PARSED;
}

/* Those that are stepped over, all below 64, as bits: the verifier learns less from one comparison. */
static inline bool is_extension_header(__u32 type)
{
	return type < 64 && 1ULL << type & (1ULL << IPPROTO_HOPOPTS | 1ULL << IPPROTO_ROUTING |
					    1ULL << IPPROTO_FRAGMENT | 1ULL << IPPROTO_DSTOPTS);
}

/*
 * Steps over extension headers (RFC 8200, 4.1), and leaves in the scratch packet what they lead to; returns an enum
 * parsed. A fragment's have to end before `end`. Authentication headers are left alone: what they carry is a protocol
 * of its own.
 */
__noinline int skip_extension_headers(struct __sk_buff *skb, __u32 offset, __u32 end, __u32 type)
{
	struct packet *found = scratch_packet();
	__u8 header[8];

	found->fragment = false;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_EXTENSION_HEADERS && is_extension_header(type); i++) {
		if (bpf_skb_load_bytes(skb, offset, header, sizeof(header)))
			return PARSED_TRUNCATED;
		if (type == IPPROTO_ROUTING && header[3])
			return PARSED_SOURCE_ROUTE;
		offset += type == IPPROTO_FRAGMENT ? 8 : 8 + header[1] * 8;
		if (type == IPPROTO_FRAGMENT) {
			found->identification = *(__u32 *)(header + 4);
			if (*(__be16 *)(header + 2) & bpf_htons(FRAGMENT_OFFSET_V6))
				return offset > end ? PARSED_MALFORMED : PARSED_FRAGMENT;
			found->fragment |= header[3] & MORE_FRAGMENTS_V6;
		}
		type = header[0];
	}
	found->offset = offset;
	found->protocol = type;
	return is_extension_header(type) ? PARSED_EXTENSION_HEADERS : PARSED;
}

static inline enum parsed parse_v6(struct __sk_buff *skb, struct packet *packet, enum direction direction,
				   __u32 header)
{
	__u32 length = direction == QUOTED ? packet->length : skb->len - header, end;
	const struct ipv6hdr *ip = peek(skb, header, sizeof(*ip));
	const struct packet *found;
	enum parsed result;

	if (!ip)
		return PARSED_TRUNCATED;
	if (ip_version(ip) != 6)
		return PARSED_MALFORMED;
	/* 0 in a jumbogram, which the kernel builds for GSO packets only. */
	end = direction != QUOTED && (ip->payload_len || !skb->gso_size) ? bpf_ntohs(ip->payload_len) + sizeof(*ip) : length;
	if (end > length)
		return PARSED_TRUNCATED;

	packet->family = 6;
	packet->protocol = ip->nexthdr;
	packet->offset = header + sizeof(*ip);
	address_from_v6(packet->tuple.peer, direction != OUTBOUND ? &ip->saddr : &ip->daddr);
	address_from_v6(packet->tuple.self, direction != OUTBOUND ? &ip->daddr : &ip->saddr);
	if (address_is_v4(packet->tuple.peer) || address_is_v4(packet->tuple.self))
		return PARSED_MALFORMED;
	if (unlikely(is_extension_header(ip->nexthdr))) {
		result = skip_extension_headers(skb, packet->offset, header + end, packet->protocol);
		found = scratch_packet();
		packet->identification = found->identification;
		if (result != PARSED)
			return result;
		packet->protocol = found->protocol;
		packet->offset = found->offset;
		packet->fragment = found->fragment;
	}
	if (packet->offset > header + end)
		return PARSED_MALFORMED;
	packet->length = header + end - packet->offset;
	return PARSED;
}

static inline enum parsed parse_ip(struct __sk_buff *skb, struct packet *packet, enum direction direction, __u32 header)
{
	enum parsed result = PARSED_OTHER;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		result = parse_v4(skb, packet, direction, header);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		result = parse_v6(skb, packet, direction, header);
	if (result == PARSED)
		return parse_transport(skb, packet, direction);
	packet->offset = 0;
	return result;
}

static inline void count_unparsed(enum parsed result)
{
	_Static_assert(PARSED_SOURCE_ROUTE - PARSED_TRUNCATED == EVENT_UNPARSED_SOURCE_ROUTE, "the same order");
	if (result >= PARSED_TRUNCATED)
		count_event(EVENT_UNPARSED_TRUNCATED + result - PARSED_TRUNCATED);
}

/* A VLAN's own device sees its frames without the tag; tag 0 is a priority (IEEE 802.1Q, 9.6). */
static inline enum parsed parse(struct __sk_buff *skb, struct packet *packet, enum direction direction,
				__u32 header)
{
	__u32 mac = direction == INBOUND ? offsetof(struct ethhdr, h_source) : offsetof(struct ethhdr, h_dest);
	const void *address;
	enum parsed result;

	if (skb->vlan_present && (skb->vlan_tci & 0xfff))
		return PARSED_OTHER;
	if (header) {
		address = peek(skb, mac, ETH_ALEN);
		if (!address)
			return PARSED_TRUNCATED;
		copy_mac(packet->mac, address);
	}
	result = parse_ip(skb, packet, direction, header);
	if (likely(result == PARSED))
		packet->digest = digest(&packet->tuple, packet->family);
	return result;
}

static inline bool is_syn(const struct packet *packet)
{
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* The number after the segment's last byte; a FIN counts as one (RFC 9293, 3.4). */
static inline __u32 segment_end(const struct packet *packet)
{
	return packet->seq + packet->payload + !!(packet->tcp_flags & TCP_FIN);
}

/* Whether `low` <= `value` <= `high` in sequence space (RFC 9293, 3.4). */
static inline bool in_sequence(__u32 value, __u32 low, __u32 high)
{
	return value - low <= high - low;
}
