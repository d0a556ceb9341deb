/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP segments held against the local socket that they claim to be for. */
#pragma once

#include "socket.h"

#define SEQUENCE_SLACK 65536
#define MOST_AHEAD (256 << 10) /* what a RST may follow that is on its way to who takes it */

/* The states in which sequence numbers mean something (include/net/tcp_states.h). */
static inline bool is_synchronized(__u32 state)
{
	return state == BPF_TCP_ESTABLISHED || state == BPF_TCP_FIN_WAIT1 ||
	       state == BPF_TCP_FIN_WAIT2 || state == BPF_TCP_CLOSE_WAIT ||
	       state == BPF_TCP_LAST_ACK || state == BPF_TCP_CLOSING;
}

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

/* Whether the segment continues a connection that is over, as a repeated FIN does: all is acknowledged. */
static inline bool fits_time_wait(const struct sock_common *ended, const struct packet *packet)
{
	__u32 expected = ended->skc_tw_rcv_nxt;

	if (packet->tcp_flags & TCP_RST)
		return packet->seq == expected;
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_ACK &&
	       packet->ack == ended->skc_tw_snd_nxt &&
	       in_sequence(packet->seq, expected - SEQUENCE_SLACK, expected + SEQUENCE_SLACK);
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

/* What the local socket says of a segment. */
enum verdict {
	VERDICT_NO_SOCKET, /* there is none, and nobody listens */
	VERDICT_LISTENS,   /* it listens: a RST will answer, unless this ends a handshake */
	VERDICT_OPENING,   /* it is at the beginning of a connection: see is_opening() */
	VERDICT_NO_CONNECTION, /* it is a request that the segment does not end, or closed */
	VERDICT_REFUSED,   /* it has the connection and does not expect the segment */
	VERDICT_AHEAD,     /* it has the connection, and expects this RST after what may be on its way to it */
	VERDICT_ENDED,     /* the segment is of its connection, which is over: who opened it is not known */
	VERDICT_ACCEPTED,  /* the segment is of its connection, which the peer opened, or opens by it */
	VERDICT_OPENED,    /* the same, and the host opened it */
};

/* Whether the RST may follow what is on its way to the socket. */
static inline bool is_ahead_of(const struct tcp_sock *tcp, const struct packet *packet)
{
	__u32 ahead = packet->seq - tcp->rcv_nxt;

	return packet->tcp_flags & TCP_RST && ahead <= MOST_AHEAD && ahead <= tcp->rcv_wnd;
}

/* The verdict of a socket that has a connection. With Fast Open it has one before the handshake ends. */
static inline enum verdict verdict_of(const struct tcp_sock *tcp, const struct packet *packet, bool is_begun)
{
	bool is_expected = fits_socket(tcp, packet), is_accepted = was_accepted(tcp);

	if (!is_begun && !(is_expected && is_accepted))
		return VERDICT_OPENING;
	if (is_expected)
		return is_accepted ? VERDICT_ACCEPTED : VERDICT_OPENED;
	return is_ahead_of(tcp, packet) ? VERDICT_AHEAD : VERDICT_REFUSED;
}

/* Returns an enum verdict. */
__noinline int ask_socket(struct __sk_buff *skb)
{
	enum verdict verdict = VERDICT_NO_CONNECTION;
	const struct tcp_request_sock *request = NULL;
	const struct sock_common *ended = NULL;
	struct scratch *scratch = get_scratch();
	struct bpf_sock_tuple tuple = {};
	struct tcp_sock *tcp = NULL;
	struct bpf_sock *sk;
	__u32 size;

	if (!scratch)
		return VERDICT_NO_CONNECTION;
	size = socket_tuple(&scratch->packet, &tuple);
	sk = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return VERDICT_NO_SOCKET;
	if (is_synchronized(sk->state) || sk->state == BPF_TCP_SYN_RECV)
		tcp = bpf_skc_to_tcp_sock(sk);
	if (sk->state == BPF_TCP_TIME_WAIT)
		ended = (const void *)bpf_skc_to_tcp_timewait_sock(sk);
	if (sk->state == BPF_TCP_NEW_SYN_RECV)
		request = (const void *)bpf_skc_to_tcp_request_sock(sk);
	if (sk->state == BPF_TCP_LISTEN)
		verdict = has_cookie(skb, sk, scratch) ? VERDICT_ACCEPTED : VERDICT_LISTENS;
	if (sk->state == BPF_TCP_SYN_SENT)
		verdict = VERDICT_OPENING;
	if (ended)
		verdict = fits_time_wait(ended, &scratch->packet) ? VERDICT_ENDED : VERDICT_REFUSED;
	if (request && fits_request(request, &scratch->packet))
		verdict = VERDICT_ACCEPTED;
	if (tcp)
		verdict = verdict_of(tcp, &scratch->packet, sk->state != BPF_TCP_SYN_RECV);
	bpf_sk_release(sk);
	return verdict;
}

/* Whether a local socket has this connection, or a request for it; with SYN cookies there is neither at first. */
static inline bool has_socket(struct __sk_buff *skb)
{
	return ask_socket(skb) > VERDICT_LISTENS;
}

/*
 * Whether a local socket is opening this very connection: both ends began at once. It has taken the peer's SYN then, or
 * not yet. Of one that listens there is a request at this point (BPF_TCP_NEW_SYN_RECV); only with Fast Open it is a
 * socket in the same state, by whose tuple the host did not begin.
 */
static inline bool is_opening(struct __sk_buff *skb)
{
	return ask_socket(skb) == VERDICT_OPENING;
}

/*
 * Keeps what the peer acknowledged where no socket of ours knows it: of what was sent, for all else the segment may
 * claim. What it brings counts when our side acknowledges it.
 */
static inline void track_received(const struct packet *packet, struct flow *flow)
{
	if (unlikely(flow->flags & FLOW_NO_SOCKET) &&
	    in_sequence(packet->ack, flow->snd_una, flow->snd_nxt))
		flow->snd_una = packet->ack;
}

/* The kernel begins the next connection with a tuple farther away (tcp_twsk_unique()). */
static inline bool is_near_sent(const struct packet *packet, const struct flow *flow)
{
	return in_sequence(packet->seq, flow->snd_una - SEQUENCE_SLACK,
			   flow->snd_nxt + SEQUENCE_SLACK);
}

/*
 * Whether the RST, which leaves, ends the connection. One that a filter sends (nft reject) answers a segment that may be
 * forged, and the socket goes on. Without a socket here, its number is what the forged segment acknowledged.
 */
static __noinline bool reset_ends(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	struct bpf_sock *sk = skb->sk;

	if (flow->flags & FLOW_NO_SOCKET)
		return is_near_sent(packet, flow);
	if ((sk && sent_it(sk, packet)) || !put_in_scratch(packet))
		return true;
	return ask_socket(skb) < VERDICT_REFUSED;
}

/* Whether our side ends the connection by this segment. */
static inline bool ends_connection(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	if (likely(!(packet->tcp_flags & (TCP_FIN | TCP_RST))))
		return false;
	return !(packet->tcp_flags & TCP_RST) || reset_ends(skb, packet, flow);
}

/* Keeps what our side sent and acknowledged, where no socket of ours knows it. */
static inline void track_sent(const struct packet *packet, struct flow *flow)
{
	__u32 end = segment_end(packet);

	if (likely(!(flow->flags & FLOW_NO_SOCKET)) || packet->tcp_flags & TCP_RST)
		return;
	if (!is_near_sent(packet, flow)) {
		flow->snd_una = packet->seq; /* the next connection, whose handshake was not looked for */
		flow->snd_nxt = end;
	} else if ((__s32)(end - flow->snd_nxt) > 0) {
		flow->snd_nxt = end;
	}
	if (packet->tcp_flags & TCP_ACK)
		flow->rcv_nxt = packet->ack;
}

/*
 * Whether a reset may follow what came by the flow's path within a second. The programs see up to eight packets of a NIC
 * before the first reaches its socket (net/core/dev.c, __netif_receive_skb_list_core()), and others wait for the socket
 * in its backlog, or for our side to acknowledge them.
 */
static inline bool is_on_the_heels(const struct flow *flow, const struct __sk_buff *skb,
				   const struct packet *packet)
{
	return came_by(flow, skb, packet) && !is_due(flow);
}

/* Continues near what our side acknowledged last, and acknowledges near the last acknowledgement, or what was sent since. */
static inline bool continues_flow(const struct flow *flow, const struct __sk_buff *skb,
			     const struct packet *packet)
{
	__u32 highest = flow->snd_una + SEQUENCE_SLACK, ahead = packet->seq - flow->rcv_nxt;

	if (packet->tcp_flags & TCP_RST)
		return !ahead || (ahead <= MOST_AHEAD && is_on_the_heels(flow, skb, packet));
	if ((__s32)(flow->snd_nxt - highest) > 0)
		highest = flow->snd_nxt;
	return packet->tcp_flags & TCP_ACK &&
	       in_sequence(packet->ack, flow->snd_una - SEQUENCE_SLACK, highest) &&
	       in_sequence(packet->seq, flow->rcv_nxt - SEQUENCE_SLACK, flow->rcv_nxt + SEQUENCE_SLACK);
}

/*
 * Whether the segment may steer its flow: the local socket decides. Where there is none, because the connection is a
 * container's or forwarded, what the entry saw does. Somebody may listen on the port all the same, as container engines
 * do. What a RST follows may be the handshake's last ACK, which has not reached the request yet: the entry knows where
 * the peer began.
 */
static inline bool segment_is_plausible(struct __sk_buff *skb, const struct packet *packet,
					const struct flow *flow)
{
	enum verdict verdict = ask_socket(skb);

	if (verdict >= VERDICT_ENDED)
		return true;
	if (verdict == VERDICT_AHEAD)
		return is_on_the_heels(flow, skb, packet);
	if (packet->tcp_flags & TCP_RST && verdict > VERDICT_LISTENS && verdict < VERDICT_REFUSED)
		return continues_flow(flow, skb, packet);
	return verdict != VERDICT_REFUSED && flow->flags & FLOW_NO_SOCKET &&
	       continues_flow(flow, skb, packet);
}
