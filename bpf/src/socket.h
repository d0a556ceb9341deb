/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The local socket that a packet is for, or of; without one, what the entry of a flow saw. */
#pragma once

#include "path.h"

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
	__builtin_memcpy(&to->ipv6, tuple, sizeof(to->ipv6)); /* addresses and ports are in the same order */
	return sizeof(to->ipv6);
}

enum udp_socket {
	UDP_SOCKET_NONE = 0,
	UDP_SOCKET_CONNECTED, /* it owns the tuple: the host asked, unless it is known that the peer did */
	UDP_SOCKET_BOUND,     /* unconnected, and bound to the address */
	UDP_SOCKET_WILDCARD,  /* unconnected, and bound to no address */
	UDP_SOCKET_OTHER,     /* not of UDP, or not known */
};

static inline bool is_wildcard(const struct bpf_sock *sk, __u8 family)
{
	if (family == 4)
		return !sk->src_ip4;
	return !(sk->src_ip6[0] | sk->src_ip6[1] | sk->src_ip6[2] | sk->src_ip6[3]);
}

/*
 * The scratch packet's socket, as an enum udp_socket. Not every kernel's lookup heeds VRFs: on a port of one, only
 * sockets bound to it count for what they are, and to find none proves nothing.
 */
__noinline int taker(struct __sk_buff *skb)
{
	const struct interface *interface = interface_at(skb->ifindex);
	const struct packet *packet = &get_scratch()->packet;
	__u32 vrf = interface ? interface->vrf : 0;
	enum udp_socket kind;
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;

	if (packet->protocol != IPPROTO_UDP)
		return UDP_SOCKET_OTHER;
	sk = bpf_sk_lookup_udp(skb, &tuple, socket_tuple(packet, &tuple), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return vrf ? UDP_SOCKET_OTHER : UDP_SOCKET_NONE;
	kind = vrf && sk->bound_dev_if != vrf && sk->bound_dev_if != skb->ifindex ? UDP_SOCKET_OTHER :
	       sk->state == BPF_TCP_ESTABLISHED ? UDP_SOCKET_CONNECTED :
	       is_wildcard(sk, packet->family) ? UDP_SOCKET_WILDCARD : UDP_SOCKET_BOUND;
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
 * Whether the socket sent this packet itself, not a tunnel, which leaves the socket where it was (net/core/skbuff.c,
 * skb_scrub_packet()). Only datagrams are carried in datagrams; those of a translated port pass for such.
 */
static inline bool sent_it(struct bpf_sock *sk, const struct packet *packet)
{
	bool same_port = sk->src_port == bpf_ntohs(packet->tuple.self_port);
	__u8 protocol = packet->protocol;

	sk = bpf_sk_fullsock(sk);
	if (!sk) /* the request for a connection, or what remains of one */
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
static inline bool is_transparent(const struct bpf_sock *sk, const struct packet *packet)
{
	struct scratch *through = get_scratch();
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
	struct bpf_sock *sk = skb->sk;

	if (packet->protocol != IPPROTO_UDP || !sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	return sk && sk->protocol == IPPROTO_UDP && sk->src_port == bpf_ntohs(packet->tuple.self_port) &&
	       !is_transparent(sk, packet);
}

/*
 * Whether the socket goes by its route's interface alone (include/net/ip.h, ip_sk_accept_pmtu()), as those of name
 * servers do: an error would lose the packet for nothing, each time that another client asks.
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
		return inet->pmtudisc >= IP_PMTUDISC_INTERFACE; /* or OMIT; IPv6 has the same numbers */
	return BPF_CORE_READ_BITFIELD(inet->pinet6, pmtudisc) >= IP_PMTUDISC_INTERFACE;
}

#define SEQUENCE_SLACK 65536
#define MOST_AHEAD (256 << 10) /* what a RST may follow that is on its way to who takes it */

/* Acknowledges what was sent, and is near what is expected. Another CPU may yet have to raise snd_nxt: write_seq. */
static inline bool fits_socket(const struct tcp_sock *tcp, const struct packet *packet)
{
	__u32 window = tcp->rcv_wnd > SEQUENCE_SLACK ? tcp->rcv_wnd : SEQUENCE_SLACK;

	/* A reset need not acknowledge anything, but has to be exact (RFC 5961, 3.2). */
	if (packet->tcp_flags & TCP_RST)
		return packet->seq == tcp->rcv_nxt;
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_ACK &&
	       in_sequence(packet->ack, tcp->snd_una, tcp->write_seq) &&
	       in_sequence(packet->seq, tcp->rcv_nxt - SEQUENCE_SLACK, tcp->rcv_nxt + window);
}

/*
 * Whether the connection was accepted, not opened by the host: the kernel then notes the interface of the handshake's
 * last ACK in a field that is for multicast otherwise (net/ipv4/tcp_ipv4.c, tcp_v4_syn_recv_sock; tcp_ipv6.c,
 * tcp_v6_syn_recv_sock), and that users cannot set on TCP sockets.
 */
static inline bool was_accepted(const struct tcp_sock *tcp)
{
	const struct inet_sock *inet = (const struct inet_sock *)tcp;

	return inet->mc_index || inet->pinet6->mcast_oif;
}

/* Whether the segment ends the handshake of a request: it acknowledges our SYN, and follows the peer's. */
static inline bool fits_request(const struct tcp_request_sock *request, const struct packet *packet)
{
	__u32 expected = request->rcv_isn + 1;

	return (packet->tcp_flags & (TCP_SYN | TCP_RST | TCP_ACK)) == TCP_ACK && packet->ack == request->snt_isn + 1 &&
	       in_sequence(packet->seq, expected, expected + SEQUENCE_SLACK);
}

/*
 * Whether the segment ends a handshake of which a listener remembers nothing: it acknowledges a SYN cookie. The kernel
 * reads no more of the IP header than version and addresses (bpf_tcp_check_syncookie() in net/core/filter.c); before
 * 5.18 it knows no cookie of IPv4 for a listener of both families.
 */
static inline bool has_cookie(struct __sk_buff *skb, struct bpf_sock *listener, struct scratch *scratch)
{
	const void *tcp = peek(skb, scratch->packet.offset, TCP_HEADER);
	const struct tuple *tuple = &scratch->packet.tuple;
	bool v4 = scratch->packet.family == 4;
	struct ipv6hdr *v6 = (struct ipv6hdr *)scratch->rejection.ip;
	struct iphdr *ip = (struct iphdr *)scratch->rejection.ip;

	if (v4) {
		*(__u8 *)ip = 0x45; /* see ip_version() */
		ip->saddr = ((const __be32 *)tuple->peer)[3];
		ip->daddr = ((const __be32 *)tuple->self)[3];
	} else {
		*(__u8 *)v6 = 6 << 4;
		__builtin_memcpy(&v6->saddr, tuple->peer, sizeof(v6->saddr));
		__builtin_memcpy(&v6->daddr, tuple->self, sizeof(v6->daddr));
	}
	return tcp && !bpf_tcp_check_syncookie(listener, ip, v4 ? sizeof(*ip) : sizeof(*v6), (void *)tcp, TCP_HEADER);
}

/* What the local socket says of a segment: the later, the more it has to do with it. */
enum verdict {
	VERDICT_NO_SOCKET, /* there is none, and nobody listens */
	VERDICT_LISTENS,   /* it listens: a RST will answer, unless this ends a handshake */
	VERDICT_OPENING,   /* it sent a SYN, and has taken the peer's or not: both ends begin at once */
	VERDICT_NO_CONNECTION, /* it is a request that the segment does not end, or its connection is over */
	VERDICT_REFUSED,   /* it has the connection and does not expect the segment */
	VERDICT_AHEAD,     /* it has the connection, and expects this RST after what may be on its way to it */
	VERDICT_ACCEPTED,  /* the segment is of its connection, which the peer opened, or opens by it */
	VERDICT_OPENED,    /* the same, and the host opened it */
};

/* The verdict of a socket that has a connection. With Fast Open it has one before the handshake ends. */
static inline enum verdict verdict_of(const struct tcp_sock *tcp, const struct packet *packet, bool is_begun)
{
	bool is_expected = fits_socket(tcp, packet), is_accepted = was_accepted(tcp);
	__u32 ahead = packet->seq - tcp->rcv_nxt;

	if (!is_begun && !(is_expected && is_accepted))
		return VERDICT_OPENING;
	if (is_expected)
		return is_accepted ? VERDICT_ACCEPTED : VERDICT_OPENED;
	return packet->tcp_flags & TCP_RST && ahead <= MOST_AHEAD && ahead <= tcp->rcv_wnd ? VERDICT_AHEAD : VERDICT_REFUSED;
}

__noinline int ask_socket(struct __sk_buff *skb)
{
	enum verdict verdict = VERDICT_NO_CONNECTION;
	const struct tcp_request_sock *request;
	struct scratch *scratch = get_scratch();
	struct bpf_sock_tuple tuple = {};
	const struct tcp_sock *tcp;
	struct bpf_sock *sk;

	scratch->socket_is_closing = false;
	scratch->socket_snd_nxt = scratch->packet.ack;
	sk = bpf_skc_lookup_tcp(skb, &tuple, socket_tuple(&scratch->packet, &tuple), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return VERDICT_NO_SOCKET;
	switch (sk->state) {
	case BPF_TCP_LISTEN:
		verdict = has_cookie(skb, sk, scratch) ? VERDICT_ACCEPTED : VERDICT_LISTENS;
		break;
	case BPF_TCP_SYN_SENT:
		verdict = VERDICT_OPENING;
		break;
	case BPF_TCP_NEW_SYN_RECV:
		request = (const void *)bpf_skc_to_tcp_request_sock(sk);
		if (request && fits_request(request, &scratch->packet))
			verdict = VERDICT_ACCEPTED;
		break;
	default:
		scratch->socket_is_closing = sk->state != BPF_TCP_ESTABLISHED && sk->state != BPF_TCP_CLOSE_WAIT && sk->state != BPF_TCP_SYN_RECV;
		tcp = bpf_skc_to_tcp_sock(sk); /* none in TIME_WAIT */
		if (tcp) {
			verdict = verdict_of(tcp, &scratch->packet, sk->state != BPF_TCP_SYN_RECV);
			scratch->socket_snd_nxt = tcp->snd_nxt;
		}
	}
	bpf_sk_release(sk);
	return verdict;
}

/* Only of what was sent: all else the segment may claim. What it brings counts when our side acknowledges it. */
static inline void track_received(const struct packet *packet, struct flow *flow)
{
	if (unlikely(flow->flags & FLOW_NO_SOCKET) && in_sequence(packet->ack, flow->snd_una, flow->snd_nxt))
		flow->snd_una = packet->ack;
}

/* The kernel begins the next connection with a tuple farther away (tcp_twsk_unique()). */
static inline bool is_near_sent(const struct packet *packet, const struct flow *flow)
{
	return in_sequence(packet->seq, flow->snd_una - SEQUENCE_SLACK, flow->snd_nxt + SEQUENCE_SLACK);
}

/*
 * Whether our side ends the connection by this FIN or RST. A filter's RST (nft reject) may answer a forged segment, and
 * the socket goes on. Without a socket here, its number is what that segment acknowledged.
 */
static __noinline bool ends_connection(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	struct bpf_sock *sk = skb->sk;

	if (!(packet->tcp_flags & TCP_RST))
		return true;
	if (flow->flags & FLOW_NO_SOCKET)
		return is_near_sent(packet, flow);
	if (sk && sent_it(sk, packet))
		return true;
	put_in_scratch(packet);
	return ask_socket(skb) < VERDICT_REFUSED;
}

/* Keeps what our side sent and acknowledged, where no socket of ours knows it, or on trial. */
static inline void track_sent(const struct packet *packet, struct flow *flow)
{
	__u32 end = segment_end(packet);

	if (packet->tcp_flags & TCP_RST)
		return;
	if (flow->flags & FLOW_NO_SOCKET && !is_near_sent(packet, flow)) {
		flow->snd_una = packet->seq; /* the next connection, whose handshake was not looked for */
		flow->snd_nxt = end;
	} else if ((__s32)(end - flow->snd_nxt) > 0) {
		flow->snd_nxt = end;
	}
	if (packet->tcp_flags & TCP_ACK)
		flow->rcv_nxt = packet->ack;
}

/* Continues near what our side acknowledged last, and acknowledges near the last acknowledgement, or what was sent since. */
static inline bool continues_flow(const struct flow *flow, const struct __sk_buff *skb, const struct packet *packet)
{
	__u32 highest = flow->snd_una + SEQUENCE_SLACK, ahead = packet->seq - flow->rcv_nxt;

	if (packet->tcp_flags & TCP_RST)
		return !ahead || (ahead <= MOST_AHEAD && is_next_frame(skb, packet, flow));
	if ((__s32)(flow->snd_nxt - highest) > 0)
		highest = flow->snd_nxt;
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_ACK &&
	       in_sequence(packet->ack, flow->snd_una - SEQUENCE_SLACK, highest) &&
	       in_sequence(packet->seq, flow->rcv_nxt - SEQUENCE_SLACK, flow->rcv_nxt + SEQUENCE_SLACK);
}

/*
 * Whether the segment may steer its flow: docs/design/packet.md, "plausible". Container engines listen on ports whose
 * connections are elsewhere. A RST may follow the handshake's last ACK, which has not reached the request yet.
 */
static inline bool segment_is_plausible(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	enum verdict verdict = ask_socket(skb);

	if (verdict >= VERDICT_ACCEPTED)
		return true;
	if (verdict == VERDICT_AHEAD)
		return is_next_frame(skb, packet, flow);
	return verdict < VERDICT_REFUSED && continues_flow(flow, skb, packet) &&
	       (flow->flags & FLOW_NO_SOCKET || (packet->tcp_flags & TCP_RST && verdict > VERDICT_LISTENS));
}
