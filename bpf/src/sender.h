/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The socket that an outbound packet is of. */
#pragma once

#include "socket.h"

#define SOCK_RAW 3
#define FAMILY_PACKET 17 /* AF_PACKET: whole frames, for which no tunnel is asked */

/*
 * Whether the socket sent this packet itself, and not one that a tunnel has wrapped: tunnels leave the socket where it
 * was (skb_scrub_packet() in net/core/skbuff.c). Only datagrams are carried in datagrams; those of a socket whose port
 * was translated pass for such. What is no full socket is the request for a connection, or what remains of one.
 */
static inline bool sent_it(struct bpf_sock *sk, const struct packet *packet)
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

#define INET_FLAGS_TRANSPARENT 15 /* include/net/inet_sock.h, in an enum without a name */

/*
 * Whether the socket may answer for others (IP_TRANSPARENT), as those of transparent proxies do. The verifier lets
 * nobody count from a pointer to a socket to what it does not show; as a number, it passes through a map. Where the
 * kernel's memory cannot be read, any that is bound to the address and not connected may be a proxy's.
 */
static inline bool is_transparent(const struct bpf_sock *sk, const struct packet *packet,
				  struct scratch *through)
{
	const struct inet_sock *inet;

	if (!have_probe_read)
		return !is_wildcard(sk, packet->family) && sk->state != BPF_TCP_ESTABLISHED;
	through->socket = (__u64)sk;
	inet = (const struct inet_sock *)*(volatile __u64 *)&through->socket;
	if (bpf_core_field_exists(inet->inet_flags))
		return BPF_CORE_READ(inet, inet_flags) >> INET_FLAGS_TRANSPARENT & 1;
	return BPF_CORE_READ_BITFIELD_PROBED(inet, transparent);
}

/* Whether a UDP socket of this host sends this: what is forwarded has none, and a proxy's answers for others. */
static inline bool speaks_for_itself(struct __sk_buff *skb, const struct packet *packet)
{
	struct scratch *through = get_scratch();
	struct bpf_sock *sk = skb->sk;

	if (packet->protocol != IPPROTO_UDP || !sk || !through)
		return false;
	sk = bpf_sk_fullsock(sk);
	return sk && sk->protocol == IPPROTO_UDP && sk->src_port == bpf_ntohs(packet->tuple.self_port) &&
	       !is_transparent(sk, packet, through);
}
