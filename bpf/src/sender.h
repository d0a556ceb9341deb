/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The socket that an outbound packet is of. */
#pragma once

#include "socket.h"

#define SOCK_RAW 3
#define FAMILY_PACKET 17 /* AF_PACKET: whole frames, for which no tunnel is asked */

/*
 * Whether the socket sent this packet itself, and not one that a tunnel has wrapped:
 * tunnels leave the socket where it was (skb_scrub_packet() in net/core/skbuff.c). Only
 * datagrams are carried in datagrams; those of a socket whose port was translated pass for
 * such. What is no full socket is the request for a connection, or what remains of one.
 */
static __always_inline bool sent_it(struct bpf_sock *sk, const struct packet *packet)
{
	bool same_port = sk->src_port == bpf_ntohs(packet->tuple.self_port);
	__u8 protocol = packet->protocol;

	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return protocol == IPPROTO_TCP;
	if (sk->family == FAMILY_PACKET)
		return true;
	if (sk->type == SOCK_RAW) /* the kernel's own, for RSTs, as well */
		return sk->protocol == protocol || sk->protocol == IPPROTO_RAW;
	return sk->protocol == protocol && (protocol != IPPROTO_UDP || same_port);
}

/* Whether the socket is bound to the packet's own address. */
static __always_inline bool has_address(const struct bpf_sock *sk, const struct packet *packet)
{
	const __u32 *self = (const __u32 *)packet->tuple.self;

	if (packet->family == 4)
		return sk->src_ip4 == self[3];
	return !((sk->src_ip6[0] ^ self[0]) | (sk->src_ip6[1] ^ self[1]) |
		 (sk->src_ip6[2] ^ self[2]) | (sk->src_ip6[3] ^ self[3]));
}

/*
 * Whether a UDP socket sends this that nothing translates: by its own port, and connected from
 * this address or bound to none. One that is bound to the address and not connected may be a
 * transparent proxy's, which answers so.
 */
static __always_inline bool speaks_for_itself(const struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_sock *sk = skb->sk;
	__u32 port = bpf_ntohs(packet->tuple.self_port);

	if (packet->protocol != IPPROTO_UDP || !sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	return sk && sk->protocol == IPPROTO_UDP && sk->src_port == port &&
	       (is_wildcard(sk, packet->family) ||
		(sk->state == BPF_TCP_ESTABLISHED && has_address(sk, packet)));
}
