/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Size: nobody checks it after a redirect. So SYNs announce no more than fits, and who sends what is too large all the
 * same gets an ICMP error (docs/design/packet.md). A packet that fits pays for none of it.
 */
#pragma once

#include "path.h"
#include "rejection.h"
#include "socket.h"

#define MAX_OPTIONS 40 /* bytes; a TCP header has 60 at most */
#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_MSS 2
#define OPTION_MSS_LENGTH 4
#define OPTION_AO 29 /* RFC 5925: signs the options */

/*
 * Where the MSS stands in the TCP header of this size; 0 where there is not exactly one, or the options are malformed
 * or signed. The verifier does not follow what is kept in the scratch memory: every step looks alike to it.
 */
static inline __u32 find_mss(const struct __sk_buff *skb, __u32 offset, __u32 size, volatile __u32 *option)
{
	__u32 mss = 0;
	__u8 kind, length;

	*option = TCP_HEADER;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_OPTIONS; i++) {
		__u32 at = *option;

		if (at >= size || bpf_skb_load_bytes(skb, offset + at, &kind, sizeof(kind)) || kind == OPTION_END)
			break;
		length = 1;
		if (kind != OPTION_NOP &&
		    (kind == OPTION_AO || bpf_skb_load_bytes(skb, offset + at + 1, &length, sizeof(length)) || length < 2 ||
		     at + length > size))
			return 0;
		if (kind == OPTION_MSS) {
			if (length != OPTION_MSS_LENGTH || mss)
				return 0;
			mss = at + 2;
		}
		*option = at + length;
	}
	return mss;
}

/* Lowers the MSS that the TCP header of this size at the offset announces to `limit`, if it can be done at all. */
__noinline int lower_mss(struct __sk_buff *skb, __u32 offset, __u32 size, __u32 limit)
{
	__u32 mss = find_mss(skb, offset, size, &get_scratch()->option);
	__be16 old, new = bpf_htons(limit);

	if (!mss || bpf_skb_load_bytes(skb, offset + mss, &old, sizeof(old)) || bpf_ntohs(old) <= limit ||
	    bpf_skb_store_bytes(skb, offset + mss, &new, sizeof(new), 0))
		return 0;
	if (mss % 2) { /* astride two of the words that the checksum adds up: it counts with its bytes swapped */
		old = __builtin_bswap16(old);
		new = __builtin_bswap16(new);
	}
	/* Cannot fail: what stands behind the checksum was just written. */
	bpf_l4_csum_replace(skb, offset + offsetof(struct tcphdr, check), old, new, sizeof(new));
	return 0;
}

/* Has a SYN or SYN-ACK announce no more than a narrow interface takes. The MSS is without options (RFC 6691, 2). */
static inline void announce_size(struct __sk_buff *skb, const struct packet *packet,
				 const struct interface *interface)
{
	__u32 headers = (packet->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + TCP_HEADER;

	if (interface && interface->flags & INTERFACE_NARROW && is_enforced(interface) && !packet->fragment &&
	    interface->mtu > headers)
		lower_mss(skb, packet->offset, packet->length - packet->payload, interface->mtu - headers);
}

/* Whether the packet, or each segment of it, fits. Without bpf_check_mtu segments have the headers of the packet. */
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
#define ICMP_FRAG_NEEDED 4

/*
 * Turns the packet into the ICMP error about it, which comes from the peer: rp_filter expects that by the interface
 * that the kernel chose. False where that cannot be done: the packet is then what it was.
 */
__noinline int become_size_error(struct __sk_buff *skb, __u32 header, __u32 transport, __u32 mtu)
{
	bool v4 = skb->protocol == bpf_htons(ETH_P_IP);
	struct scratch *scratch = get_scratch();

	if (!transport || transport > header + QUOTE - QUOTED_TRANSPORT ||
	    mtu < (v4 ? SMALLEST_MTU : SMALLEST_MTU_V6) || ignores_path_mtu(skb) ||
	    bpf_skb_load_bytes(skb, header, scratch->rejection.quote, QUOTE))
		return false;
	return become_error(skb, &scratch->rejection, v4, header, v4 ? ICMP_DEST_UNREACH : ICMPV6_PKT_TOOBIG,
			    v4 ? ICMP_FRAG_NEEDED : 0, mtu, QUOTE);
}

/* At most once a second for a flow: `told` says when. The packet becomes the message; the caller redirects it. */
static inline bool tell_sender(struct __sk_buff *skb, const struct packet *packet, __u16 *told, __u32 mtu,
			       __u32 header)
{
	__u16 time = now();

	if ((*told && (__u16)(time - *told) < seconds(1)) ||
	    !become_size_error(skb, header, packet->offset, mtu))
		return false;
	*told = time ? time : 1; /* 0: never */
	return true;
}
