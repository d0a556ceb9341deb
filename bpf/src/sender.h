/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The socket that an outbound packet is of. */
#pragma once

#include "parse.h"

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
