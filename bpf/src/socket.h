/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The local socket that the scratch packet is for, or of. */
#pragma once

#include "parse.h"

/* Fills in the tuple as the socket lookup helpers want it; returns its size. */
static inline __u32 socket_tuple(const struct packet *packet, struct bpf_sock_tuple *to)
{
	const struct tuple *tuple = &packet->tuple;

	if (packet->family == 4) {
		to->ipv4.saddr = ((const __u32 *)tuple->peer)[3];
		to->ipv4.daddr = ((const __u32 *)tuple->self)[3];
		to->ipv4.sport = tuple->peer_port;
		to->ipv4.dport = tuple->self_port;
		return sizeof(to->ipv4);
	}
	__builtin_memcpy(to->ipv6.saddr, tuple->peer, sizeof(tuple->peer));
	__builtin_memcpy(to->ipv6.daddr, tuple->self, sizeof(tuple->self));
	to->ipv6.sport = tuple->peer_port;
	to->ipv6.dport = tuple->self_port;
	return sizeof(to->ipv6);
}

enum udp_socket {
	UDP_SOCKET_NONE = 0,
	UDP_SOCKET_CONNECTED, /* it owns the tuple: the host asked, unless it is known that the peer did */
	UDP_SOCKET_WILDCARD,  /* unconnected, and bound to no address */
	UDP_SOCKET_BOUND,     /* unconnected, and bound to the address */
	UDP_SOCKET_OTHER,     /* not of UDP, or not known */
};

static inline bool is_wildcard(const struct bpf_sock *sk, __u8 family)
{
	if (family == 4)
		return !sk->src_ip4;
	return !(sk->src_ip6[0] | sk->src_ip6[1] | sk->src_ip6[2] | sk->src_ip6[3]);
}

/*
 * Returns an enum udp_socket. Not every kernel's lookup heeds VRFs: on a port of one it finds the sockets of none, and
 * not those that are bound to it. Only those that are count there for what they are, and to find none proves nothing.
 */
__noinline int udp_socket(struct __sk_buff *skb, __u32 vrf)
{
	const struct scratch *from = get_scratch();
	enum udp_socket kind = UDP_SOCKET_NONE;
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;

	if (!from || from->packet.protocol != IPPROTO_UDP)
		return UDP_SOCKET_OTHER;
	sk = bpf_sk_lookup_udp(skb, &tuple, socket_tuple(&from->packet, &tuple), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return vrf ? UDP_SOCKET_OTHER : UDP_SOCKET_NONE;
	kind = vrf && sk->bound_dev_if != vrf && sk->bound_dev_if != skb->ifindex ? UDP_SOCKET_OTHER :
	       sk->state == BPF_TCP_ESTABLISHED	       ? UDP_SOCKET_CONNECTED :
	       is_wildcard(sk, from->packet.family) ? UDP_SOCKET_WILDCARD :
							UDP_SOCKET_BOUND;
	bpf_sk_release(sk);
	return kind;
}

/* A socket stays on the device that it is bound to, or on the ports of its VRF. */
static inline bool is_bound_off(__u32 bound, const struct interface *target)
{
	return bound && bound != target->ifindex && bound != target->vrf;
}
