/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Size: the flow's interface takes smaller packets than the one that the kernel builds its replies for. Nobody checks
 * the size again after a redirect: what is too large would be lost without a trace. So
 *
 * - a SYN that comes in by such an interface, and the SYN-ACK that will leave by it, announce no more than fits (as
 *   routers do that clamp the MSS);
 * - of what is too large all the same the sender, which is this host, learns the size by an ICMP error, as it would
 *   from a router. TCP sends again what was too large, in segments that fit.
 *
 * A packet that fits pays for none of it. What writes is in global functions, which take only numbers on old kernels
 * (see struct scratch).
 */
#pragma once

#include "path.h"
#include "rejection.h"
#include "socket.h"

#define TCP_DATA_OFFSET 12 /* offsets of fields, RFC 9293, 3.1 */
#define TCP_CHECKSUM 16

#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_MSS 2
#define OPTION_MSS_LENGTH 4
#define OPTION_AO 29 /* RFC 5925: signs the options */

/*
 * Finds the MSS among the options in the scratch memory; false where there is not exactly one, or where changing it
 * would make the segment another one. The verifier does not follow what is kept there: every step looks alike to it, so
 * that there may be as many as options can have.
 */
static inline bool find_mss(volatile struct options *options)
{
	options->at = 0;
	options->mss = 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_OPTIONS; i++) {
		__u32 at = options->at, length = 1;
		__u8 kind = options->bytes[at % sizeof(options->bytes)];

		if (at >= options->length || kind == OPTION_END)
			break;
		if (kind != OPTION_NOP)
			length = options->bytes[(at + 1) % sizeof(options->bytes)];
		if (kind != OPTION_NOP && (kind == OPTION_AO || length < 2 || at + length > options->length))
			return false;
		if (kind == OPTION_MSS) {
			if (length != OPTION_MSS_LENGTH || options->mss)
				return false;
			options->mss = at + 2;
		}
		options->at = at + length;
	}
	return options->mss;
}

/* Reads the options of the TCP header at the offset; false where it has none. */
static inline bool read_options(const struct __sk_buff *skb, __u32 offset, struct options *options)
{
	__u32 more; /* words of options after the first one: a copy of 0 bytes is none to old verifiers */
	__u8 words;

	if (bpf_skb_load_bytes(skb, offset + TCP_DATA_OFFSET, &words, sizeof(words)))
		return false;
	more = (words >> 4) - (TCP_HEADER + 4) / 4;
	if (more >= MAX_OPTIONS / 4)
		return false;
	asm volatile("" : "+r"(more)); /* keeps the bound where it is */
	options->length = (more + 1) * 4;
	return !bpf_skb_load_bytes(skb, offset + TCP_HEADER, options->bytes, (more + 1) * 4);
}

/*
 * Corrects the checksum of the TCP header at the offset for a 16-bit field that changed. The checksum adds 16-bit words
 * up: a field that stands astride two of them counts with its bytes swapped.
 */
static inline long replace_in_checksum(struct __sk_buff *skb, __u32 offset, bool astride, __be16 old,
				       __be16 new)
{
	if (astride) {
		old = __builtin_bswap16(old);
		new = __builtin_bswap16(new);
	}
	return bpf_l4_csum_replace(skb, offset + TCP_CHECKSUM, old, new, sizeof(new));
}

/* Lowers the MSS that the TCP header at the offset announces to `limit`, if it can be done at all. */
__noinline int lower_mss(struct __sk_buff *skb, __u32 offset, __u32 limit)
{
	struct scratch *scratch = get_scratch();
	__be16 old, new = bpf_htons(limit);
	struct options *options;
	__u32 at;

	if (!scratch)
		return 0;
	options = &scratch->options;
	if (!read_options(skb, offset, options) || !find_mss(options))
		return 0;
	at = offset + TCP_HEADER + options->mss;
	if (bpf_skb_load_bytes(skb, at, &old, sizeof(old)) || bpf_ntohs(old) <= limit ||
	    bpf_skb_store_bytes(skb, at, &new, sizeof(new), 0))
		return 0;
	if (replace_in_checksum(skb, offset, options->mss % 2, old, new))
		bpf_skb_store_bytes(skb, at, &old, sizeof(old), 0);
	return 0;
}

/* Has a SYN or SYN-ACK announce no more than a narrow interface takes. The MSS is without options (RFC 6691, 2). */
static inline void announce_size(struct __sk_buff *skb, const struct packet *packet,
				 const struct interface *interface)
{
	__u32 headers = (packet->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + TCP_HEADER;

	if (!interface || !(interface->flags & INTERFACE_NARROW) || !is_enforced(interface))
		return;
	if (!packet->fragment && interface->mtu > headers)
		lower_mss(skb, packet->offset, interface->mtu - headers);
}

/*
 * Whether the packet fits its flow's interface, or the segments that it is still to be cut into do. Where the kernel
 * does not say, each of them has the headers of the packet, and nothing of what follows its IP packet.
 */
static inline bool fits_interface(struct __sk_buff *skb, const struct packet *packet,
				  const struct interface *interface, __u32 header)
{
	__u32 mtu = 0; /* must be 0 where segments are checked */

	if (likely(!skb->gso_size))
		return skb->len - header <= interface->mtu;
	if (have_check_mtu)
		return !bpf_check_mtu(skb, interface->ifindex, &mtu, 0, BPF_MTU_CHK_SEGS);
	return packet->offset - header + packet->length - packet->payload + skb->gso_size <= interface->mtu;
}

/* The least MTU that the kernel accepts from such an error: net.ipv4.route.min_pmtu, and RFC 8200, 5. */
#define SMALLEST_MTU 552
#define SMALLEST_MTU_V6 1280

#define ICMP_FRAGMENTATION_NEEDED 4

#define HOP_LIMIT 64

/*
 * Whose address the error comes from: the flow's gateway, which is the router that would have sent it. NULL where it
 * has none; then the peer, from where the questions come in by this interface as well.
 */
static inline const void *error_source(__u32 index, __u32 ifindex, bool v4)
{
	struct gateway *gateway = bpf_map_lookup_elem(&gateways, &index);

	if (!index || !gateway || gateway->ifindex != ifindex || address_is_v4(gateway->address) != v4)
		return NULL;
	return v4 ? gateway->address + sizeof(gateway->address) - sizeof(__be32) : gateway->address;
}

/*
 * Where the transport header is; 0 in a later fragment, which has none. The headers are read once more: the verifier
 * need not follow what parse() found.
 */
static inline __u32 transport_offset(struct __sk_buff *skb, __u32 header, const struct scratch *scratch)
{
	struct iphdr ip;
	__u8 protocol;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, header, &ip, sizeof(ip)) ||
		    ip.frag_off & bpf_htons(FRAGMENT_OFFSET))
			return 0;
		return header + (*(const __u8 *)&ip & 0xf) * 4;
	}
	if (bpf_skb_load_bytes(skb, header + offsetof(struct ipv6hdr, nexthdr), &protocol,
			       sizeof(protocol)) ||
	    skip_extension_headers(skb, header + sizeof(struct ipv6hdr), skb->len, protocol) != PARSED)
		return 0;
	return scratch->headers.offset;
}

/*
 * Gives the packet memory of its own, as far as it is about to change: what is done to it then cannot fail half-way for
 * want of memory, nor reach the copy that TCP keeps. bpf_skb_change_head() by nothing does just that.
 */
static inline bool unshare(struct __sk_buff *skb)
{
	return !bpf_skb_change_head(skb, 0, 0);
}

/*
 * Makes room for the headers of the error before the packet, of which its beginning is kept. `spare` bytes more can be
 * put before it afterwards without memory being asked for. False where it could not be done: the packet is then what it
 * was.
 */
static inline bool make_room(struct __sk_buff *skb, __u32 room, __u32 spare, __u32 length)
{
	if (!unshare(skb) ||
	    bpf_skb_adjust_room(skb, room + spare, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return false;
	if (spare) /* cannot fail: it was added just now */
		bpf_skb_adjust_room(skb, -(int)spare, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
	if (!bpf_skb_change_tail(skb, length, 0))
		return true;
	bpf_skb_adjust_room(skb, -(int)room, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
	return false;
}

/* Writes an Ethernet header from the interface to itself. make_room() has seen to it that this cannot fail. */
static inline void write_own_header(struct __sk_buff *skb, bool has_header, const struct interface *interface)
{
	__be16 protocol = skb->protocol;

	if (!has_header && bpf_skb_change_head(skb, ETH_HLEN, 0))
		return;
	bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), interface->mac, ETH_ALEN, 0);
	bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_source), interface->mac, ETH_ALEN, 0);
	if (!has_header)
		bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &protocol, sizeof(protocol), 0);
}

/*
 * Turns the packet into the ICMP error about it that a router would send, as it comes in by the flow's interface. False
 * where that cannot be done: the packet is then what it was.
 */
__noinline int become_size_error(struct __sk_buff *skb, __u32 header, __u32 interface, __u32 ifindex,
				 __u32 gateway)
{
	struct interface *target = get_interface(interface, ifindex);
	struct scratch *scratch = get_scratch();
	bool v4 = skb->protocol == bpf_htons(ETH_P_IP), adds_header;
	__u32 length = ip_size(v4) + ERROR_HEADER;
	struct rejection *error;
	__u32 transport;

	if (!scratch)
		return false;
	transport = transport_offset(skb, header, scratch);
	if (!transport || transport > header + QUOTE - QUOTED_TRANSPORT || ignores_path_mtu(skb))
		return false;
	if (!target || target->mtu < (v4 ? SMALLEST_MTU : SMALLEST_MTU_V6))
		return false;
	error = &scratch->rejection;
	if (bpf_skb_load_bytes(skb, header, error->quote, sizeof(error->quote)))
		return false;
	error->mtu = bpf_htonl(target->mtu);
	write_error(error, v4, error_source(gateway, ifindex, v4), v4 ? UNREACHABLE : PACKET_TOO_BIG_V6,
		    v4 ? ICMP_FRAGMENTATION_NEEDED : 0, QUOTE, HOP_LIMIT);
	adds_header = !header && !(target->flags & INTERFACE_NO_HEADER);
	if (!make_room(skb, length, adds_header ? ETH_HLEN : 0, header + length + sizeof(error->quote)))
		return false;
	/* The packet is linear and not shared now: what is written to it is written. */
	bpf_skb_store_bytes(skb, header, beginning(error, v4), length, 0);
	if (header || adds_header)
		write_own_header(skb, header, target);
	return true;
}

/*
 * Tells the sender of a packet that is too large for the flow's interface how large it may be. At most once a second
 * for a flow: who does not listen is not shouted at, and what it sends meanwhile goes as routed. The packet becomes the
 * message; the caller redirects it to the flow's interface, inbound.
 */
static inline bool tell_sender(struct __sk_buff *skb, struct flow *flow, __u32 header)
{
	__u16 time = now();

	if (flow->size_told && (__u16)(time - flow->size_told) < seconds(1))
		return false;
	if (!become_size_error(skb, header, flow->interface, flow->ifindex, flow->gateway))
		return false;
	flow->size_told = time ? time : 1; /* 0: never */
	return true;
}
