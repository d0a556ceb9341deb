/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The local socket that a packet is for, or of. */
#pragma once

#include "parse.h"

#define FAMILY_IPV4 2 /* AF_INET */
#define FAMILY_IPV6 10 /* AF_INET6 */

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
	const struct scratch *scratch = get_scratch();
	enum udp_socket kind = UDP_SOCKET_NONE;
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;

	if (!scratch || scratch->packet.protocol != IPPROTO_UDP)
		return UDP_SOCKET_OTHER;
	sk = bpf_sk_lookup_udp(skb, &tuple, socket_tuple(&scratch->packet, &tuple), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return vrf ? UDP_SOCKET_OTHER : UDP_SOCKET_NONE;
	kind = vrf && sk->bound_dev_if != vrf && sk->bound_dev_if != skb->ifindex ? UDP_SOCKET_OTHER :
	       sk->state == BPF_TCP_ESTABLISHED	       ? UDP_SOCKET_CONNECTED :
	       is_wildcard(sk, scratch->packet.family) ? UDP_SOCKET_WILDCARD :
							UDP_SOCKET_BOUND;
	bpf_sk_release(sk);
	return kind;
}

/* A socket stays on the device that it is bound to, or on the ports of its VRF. */
static inline bool is_bound_off(__u32 bound, const struct interface *target)
{
	return bound && bound != target->ifindex && bound != target->vrf;
}

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

#define PMTUDISC_INTERFACE 4 /* IP_PMTUDISC_*, IPV6_PMTUDISC_*: 5 is OMIT */

/*
 * Whether the socket that sent the packet goes by its route's interface alone (ip_sk_accept_pmtu() in
 * include/net/ip.h). Name servers ask for that, as they fear forged errors: to tell them would lose the packet for
 * nothing, each time that another client asks.
 */
static inline bool ignores_path_mtu(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct inet_sock *inet;

	if (!have_kernel_skb || !sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	if (!sk || (sk->family != FAMILY_IPV4 && sk->family != FAMILY_IPV6))
		return false;
	inet = bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct inet_sock));
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return inet->pmtudisc >= PMTUDISC_INTERFACE;
	return BPF_CORE_READ_BITFIELD(inet->pinet6, pmtudisc) >= PMTUDISC_INTERFACE;
}
