/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What comes in (docs/design/packet.md). The fast path stands last: the next frame of a known flow by its own path. */
#pragma once

#include "follow.h"
#include "handshake.h"
#include "source_repair.h"

/* A SYN that is sent again may take another path; what we answered stays known, as the ACK decides. */
static inline void inbound_syn(struct __sk_buff *skb, struct scratch *scratch, __u32 known)
{
	const struct packet *packet = &scratch->packet;
	struct flow *flow = NULL;
	bool again;

	if (!may_start(skb))
		return;
	if (known & KINDS_HALF_OPEN)
		flow = look_up(packet, TABLE_HALF_OPEN);
	/*
	 * The host opened it, whatever the peer did meanwhile (RFC 9293, 3.5). Of a socket that listens there is a request
	 * at this point; with Fast Open it opens, and the host sent no SYN.
	 */
	if (known & 1 << KIND_NOTE && find_note(packet->digest) && ask_socket(skb) == VERDICT_OPENING)
		return count_event(EVENT_IGNORED_ANSWER);
	if (flow && is_on_its_way_up(skb, flow))
		return;
	if (!flow || flow->flags & FLOW_STRAY) {
		if (!enter(skb, scratch, TABLE_HALF_OPEN, 0, 0))
			return;
	} else if (!came_by(flow, skb, packet) && configuration.follow == FOLLOW_PINNED) {
		return count_event(EVENT_REFUSED_PINNED);
	} else {
		/* Sent again, perhaps without the data of the first one (Fast Open). */
		again = came_by(flow, skb, packet) && flow->rcv_nxt - packet->seq - 1 <= SEQUENCE_SLACK;
		flow = set_path(skb, scratch, flow, TABLE_HALF_OPEN, again ? flow->flags & FLOW_WAY : LEARNT_WAY);
		if (!flow)
			return;
		if (!again) /* another handshake, or another sender: what left before may have had the same number of ours */
			flow->attempt = flow->attempt ? ATTEMPT_AGAIN : 0;
		flow->seen = now();
		renew_place(packet->digest, KINDS_HALF_OPEN);
		flow->rcv_nxt = segment_end(packet) + 1;
	}
	announce_size(skb, packet, interface_at(skb->ifindex));
}

/*
 * The ACK of our SYN-ACK proves that the peer is where it says it is: the path of the ACK becomes that of the
 * connection. With Fast Open (RFC 7413) it may acknowledge more.
 */
static inline bool establish(struct __sk_buff *skb, struct scratch *scratch, struct flow *handshake)
{
	const struct packet *packet = &scratch->packet;
	struct flow *flow = &scratch->flow;
	bool came_here, is_next;

	if ((packet->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_ACK ||
	    !in_sequence(packet->ack, handshake->snd_una + 1, handshake->snd_nxt)) {
		count_event(EVENT_IGNORED_HANDSHAKE);
		return false;
	}
	if (!copy_flow(flow, handshake, packet)) {
		count_event(EVENT_INSERT_FAILED_ESTABLISHED);
		return false;
	}
	came_here = came_by(flow, skb, packet);
	if (!came_here && is_on_its_way_up(skb, flow))
		return true;
	learn_way(packet, flow, false);
	is_next = came_here && !is_due(flow);
	flow->seen = now();
	flow->flags &= ~(FLOW_ACTIVE | FLOW_RESET | FLOW_SETTLED);
	flow->state &= ~(FLOW_REPLIED | FLOW_CLOSING);
	if (!came_here && configuration.follow == FOLLOW_PINNED) {
		count_event(EVENT_REFUSED_PINNED);
	} else if (!is_next && (came_here || !refuse_tunnel(skb, packet))) {
		if (!find_way_back(skb, came_here ? flow->flags & FLOW_WAY : LEARNT_WAY))
			return false;
		take_path(scratch);
	}
	if (ask_socket(skb) <= VERDICT_LISTENS) { /* it is forwarded, or of a container */
		flow->flags |= FLOW_NO_SOCKET;
		flow->snd_una = packet->ack;
		flow->rcv_nxt = segment_end(packet);
	}
	if (unlikely(!came_here)) /* the SYN's sender learns, not that of the ACK */
		put_on_trial(packet, flow, ATTEMPT_FIRST);
	else if (unlikely(flow->attempt & (ATTEMPT_AGAIN | ATTEMPT_ASTRAY)))
		put_on_trial(packet, flow, flow->attempt & ~ATTEMPT_SENT);
	if (!enter_flow(TABLE_ESTABLISHED, true))
		return false;
	begin_relation(scratch, false);
	return true;
}

/*
 * A segment without an entry: its socket knows whether it is genuine, and who opened the connection. Only tuples
 * without any socket are marked: if a forged segment marked others, the genuine ones would be left out.
 */
static inline void adopt(struct __sk_buff *skb, struct scratch *scratch, bool handshake)
{
	const struct packet *packet = &scratch->packet;
	__u32 in_force = configuration.generation;

	if (!may_start(skb)) {
		/* The last ACK of a handshake may still come, and the tuple by an interface that takes it. */
		if (!handshake && !is_of_others(packet, skb->ifindex))
			put_mark(packet->digest, in_force);
		return;
	}
	switch (ask_socket(skb)) {
	case VERDICT_NO_SOCKET:
		if (handshake) /* of a container, whose socket is elsewhere */
			return;
		count_event(EVENT_IGNORED_NO_SOCKET);
		admit_stray(skb, scratch);
		return put_mark(packet->digest, in_force);
	case VERDICT_LISTENS: /* the host may be another since: do not stop asking */
		admit_stray(skb, scratch);
		return count_event(EVENT_IGNORED_SEGMENT);
	case VERDICT_OPENING:
	case VERDICT_NO_CONNECTION:
	case VERDICT_REFUSED:
		return count_event(EVENT_IGNORED_SEGMENT);
	case VERDICT_OPENED:
		note_outbound(skb->ifindex);
		return;
	case VERDICT_ACCEPTED:
		if (!enter(skb, scratch, TABLE_ESTABLISHED, FLOW_ON_TRIAL, scratch->socket_is_closing ? FLOW_CLOSING : 0))
			return;
		count_event(EVENT_READMITTED_ESTABLISHED);
		begin_relation(scratch, false);
	}
}

static inline void refresh_tcp(struct __sk_buff *skb, struct scratch *scratch, struct flow *flow)
{
	const struct packet *packet = &scratch->packet;
	bool was_closing = is_closing(flow);
	enum verdict verdict;

	if (unlikely(flow->flags & FLOW_ON_TRIAL))
		judge_trial(packet, flow);
	/*
	 * SYN cookies make a socket with the last ACK only. What goes on after a RST shows that it was forged, and after our
	 * FIN, that it is the next connection with this tuple, whose handshake was not seen.
	 */
	if ((was_closing || flow->flags & FLOW_NO_SOCKET) && is_due(flow)) {
		verdict = ask_socket(skb);
		if (verdict > VERDICT_LISTENS)
			flow->flags &= ~FLOW_NO_SOCKET;
		if (verdict >= VERDICT_ACCEPTED) {
			flow->flags &= ~FLOW_RESET;
			if (!scratch->socket_is_closing)
				flow->state &= ~FLOW_CLOSING;
		}
	}
	track_received(packet, flow);
	if (!was_closing || is_closing(flow) || set_kind(packet->digest, KINDS_ESTABLISHED, KIND_ESTABLISHED, 0, 0))
		refresh(skb, scratch, flow, TABLE_ESTABLISHED);
}

/*
 * The RST answers a SYN-ACK that left by the rule's way alone, as of a scan. Who forges that has handshakes begin by this way.
 */
static inline void reset_handshake(const struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	if ((flow->attempt & (ATTEMPT_CHOICE | ATTEMPT_AGAIN)) == ATTEMPT_CHOICE && !(flow->flags & FLOW_WAY) &&
	    came_by(flow, skb, packet) && packet->seq == flow->rcv_nxt && !find_learnt(packet, path_of(flow)))
		bpf_map_delete_elem(&begun_by, &get_scratch()->sender);
}

/*
 * Whether the RST answers what we just sent as routed to find out whether it arrives, or one of several such packets, as a
 * firewall's does that knows nothing of the connection. A peer that closes acknowledges too (net/ipv4/tcp_output.c,
 * tcp_send_active_reset()).
 */
static __noinline bool is_provoked(const struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	const struct interface *interface = get_interface(flow->interface, flow->ifindex), *present = interface_at(skb->ifindex);
	bool was_refused = flow->attempt & ATTEMPT_REFUSED && !(flow->flags & FLOW_WAY);
	const struct learnt *learnt;

	if (!(flow->flags & FLOW_AS_ROUTED || was_refused) || since_sent(flow) >= patience() ||
	    packet->tcp_flags & TCP_ACK || packet->seq != flow->rcv_nxt ||
	    !may_learn(interface) || !is_enforced(interface) || !present || !is_enforced(present))
		return false;
	learnt = find_learnt(packet, path_of(flow));
	return !learnt || !learnt->proven || learnt->way != FLOW_AS_ROUTED;
}

/* Returns the verdict: a RST that we provoked ends no socket, and tells that a flow is not to go as routed. */
static inline int inbound_reset(struct __sk_buff *skb, const struct packet *packet)
{
	struct flow *flow = look_up(packet, TABLE_ESTABLISHED), *handshake = flow ? NULL : look_up(packet, TABLE_HALF_OPEN);
	struct flow *trial = !flow ? handshake : flow->flags & FLOW_ON_TRIAL ? flow : NULL;

	if (trial && is_provoked(skb, packet, trial)) {
		if (flow)
			expect_new(flow);
		trial->attempt |= ATTEMPT_REFUSED | ATTEMPT_AGAIN;
		trial->flags &= ~FLOW_WAY;
		count_event(EVENT_REFUSED_CONTESTED);
		return TC_ACT_SHOT;
	}
	if (handshake)
		reset_handshake(skb, packet, handshake);
	if (!flow)
		return PASS;
	if (!segment_is_plausible(skb, packet, flow)) {
		if (!came_by(flow, skb, packet) && !is_on_its_way_up(skb, flow))
			count_event(EVENT_REFUSED_CONTESTED);
		return PASS;
	}
	/* While the socket was asked, the entry may have become another's. */
	if (flow->flags & FLOW_RESET || !tuple_equal(&flow->tuple, &packet->tuple))
		return PASS;
	if (is_due(flow))
		relate(TABLE_ESTABLISHED);
	flow->seen = now();
	set_kind(packet->digest, KINDS_ESTABLISHED, KIND_CLOSING, 0, FLOW_RESET);
	return PASS;
}

static inline void inbound_segment(struct __sk_buff *skb, struct scratch *scratch, __u32 known)
{
	const struct packet *packet = &scratch->packet;
	struct flow *flow = known & KINDS_ESTABLISHED ? look_up(packet, TABLE_ESTABLISHED) : NULL;
	struct flow *handshake = NULL;

	/* Whether there is a handshake too makes no difference here, and of many flows each look waits for memory. */
	if (flow && came_by(flow, skb, packet) && !is_closing(flow))
		return refresh_tcp(skb, scratch, flow);
	if (known & 1 << KIND_HANDSHAKE)
		handshake = look_up(packet, TABLE_HALF_OPEN);
	if (handshake && !(handshake->state & FLOW_REPLIED)) /* no SYN-ACK is seen here (LVS) */
		handshake = NULL;
	if (handshake && establish(skb, scratch, handshake))
		return;
	if (!flow)
		adopt(skb, scratch, handshake);
	else if (came_by(flow, skb, packet))
		refresh_tcp(skb, scratch, flow);
	else
		follow_frame(skb, scratch, flow);
}

/* Whether no server here takes the scratch packet: a connected socket is the host's own or a proxy's. */
static inline bool has_no_server(enum udp_socket socket)
{
	return socket == UDP_SOCKET_NONE || socket == UDP_SOCKET_CONNECTED;
}

/* A datagram of a flow. Where nobody took those before, a server may now. */
static inline void refresh_datagrams(struct __sk_buff *skb, struct scratch *scratch, struct flow *flow)
{
	const struct packet *packet = &scratch->packet;
	enum udp_socket socket;

	if (came_by(flow, skb, packet)) {
		heard_by_its_path(flow);
		flow = refresh(skb, scratch, flow, TABLE_CONNECTIONLESS);
	} else {
		flow = follow_frame(skb, scratch, flow);
	}
	if (flow && flow->flags & FLOW_NO_SOCKET) {
		socket = taker(skb);
		if (has_no_server(socket))
			return;
		flow->flags &= ~FLOW_NO_SOCKET;
		first_question_came(skb, packet, socket);
	} else if (flow && repair_of(packet) == REPAIR_ON) {
		enter_question(skb, false);
	}
}

static inline void inbound_datagram(struct __sk_buff *skb, struct scratch *scratch, __u32 known)
{
	const struct packet *packet = &scratch->packet;
	struct flow *flow = known & KINDS_CONNECTIONLESS ? find(packet, TABLE_CONNECTIONLESS) : NULL;
	__u32 in_force = configuration.generation;
	enum udp_socket socket;
	struct note *note;
	bool peer_began;

	if (flow && !is_idle(flow, TABLE_CONNECTIONLESS))
		return refresh_datagrams(skb, scratch, flow);
	/*
	 * An idle entry that was answered: no sender was forged. Servers connect a socket to each of their peers. The
	 * entry is read before another CPU may put another one in its place. A note beside it proves nothing: both spoke
	 * at once, or the host in the grace.
	 */
	peer_began = flow && flow->state & FLOW_REPLIED;
	note = packet->echo_request || (flow && proves_peer_began(flow)) ? NULL : find_note(packet->digest);
	if (note && is_proof(note)) {
		if (!was_just_heard(note)) { /* it shows a path; the one before may have come while nothing was repaired */
			note->heard = now();
			renew_place(packet->digest, 1 << KIND_NOTE);
			relate_answer(skb);
			if (repair_of(packet) != REPAIR_OFF)
				leave_source_open(skb);
		}
		return count_event(EVENT_IGNORED_ANSWER);
	}
	if (!may_start(skb))
		return;
	socket = taker(skb);
	if (is_routed_anyway(self_of(packet)) && socket < UDP_SOCKET_WILDCARD) { /* no source is to be repaired */
		if (socket != UDP_SOCKET_NONE)
			put_mark(packet->digest, in_force); /* the reply begins nothing of the host's own */
		return count_event(EVENT_IGNORED_LOOPBACK);
	}
	if (socket == UDP_SOCKET_CONNECTED && !peer_began)
		count_event(EVENT_IGNORED_ANSWER);
	else if (socket == UDP_SOCKET_NONE && own_address(packet->tuple.self))
		enter(skb, scratch, TABLE_CONNECTIONLESS, FLOW_NO_SOCKET, 0);
	else if (enter(skb, scratch, TABLE_CONNECTIONLESS, 0, 0)) {
		begin_relation(scratch, true);
		first_question_came(skb, packet, socket);
	}
}

/* The slow path. `known`: of the packet's digest. */
__noinline int inbound_change(struct __sk_buff *skb, __u32 known)
{
	struct scratch *scratch = get_scratch();

	if (scratch->packet.protocol != IPPROTO_TCP)
		inbound_datagram(skb, scratch, known);
	else if (scratch->packet.tcp_flags & TCP_RST)
		return inbound_reset(skb, &scratch->packet);
	else if (is_syn(&scratch->packet))
		inbound_syn(skb, scratch, known);
	else
		inbound_segment(skb, scratch, known);
	return PASS;
}

static inline int hand_to_slow_path(struct __sk_buff *skb, const struct packet *packet, __u32 known)
{
	put_in_scratch(packet);
	return inbound_change(skb, known);
}

/* Whether the packet starts no flow, as a tunnel brought it that nobody named. */
static inline bool is_at_tunnel(const struct __sk_buff *skb, const struct packet *packet)
{
	return unlikely(refusal_of_self(packet, skb->ifindex) == EVENT_IGNORED_TUNNEL);
}

/* Whether a segment without an entry changes nothing: an answer to the host, asked about lately, or brought by a tunnel. */
static inline bool pass_known_segment(struct __sk_buff *skb, const struct packet *packet, __u32 known)
{
	return (known & 1 << KIND_NOTE && likely(answers_host(skb, packet))) || (is_marked(packet->digest) && !changes_half_open(skb, packet)) ||
	       (!(packet->tcp_flags & TCP_SYN) /* else none was looked for */ && is_at_tunnel(skb, packet) &&
		!find_digest(packet->digest, TABLE_HALF_OPEN) && refuse_tunnel(skb, packet));
}

/* What is not ours is looked for in no table: of many tuples each look takes as long as memory takes. */
static inline bool pass_foreign(const struct __sk_buff *skb, const struct packet *packet)
{
	struct known_self *known = self_of(packet);

	if (likely(!is_foreign(known, packet->family, skb->ifindex)))
		return false;
	if (!known->counted) {
		known->counted = true;
		count_event(EVENT_IGNORED_NOT_OWN);
	}
	return true;
}

static inline int inbound_tcp(struct __sk_buff *skb, const struct packet *packet)
{
	struct flow *flow = NULL;
	__u32 known = ~0U; /* nobody has asked */

	if (!is_syn(packet) && pass_foreign(skb, packet))
		return PASS;
	if (likely(!(packet->tcp_flags & (TCP_SYN | TCP_RST)))) {
		flow = find_connection(packet, &known);
		/* Beside a handshake of the same tuple, the segment may end that. */
		if (likely(flow && is_next_frame(skb, packet, flow)) && likely(!(flow->flags & FLOW_ON_TRIAL)) &&
		    likely(!is_closing(flow) || !find_digest(packet->digest, TABLE_HALF_OPEN))) {
			set_active(flow);
			track_received(packet, flow);
			return PASS;
		}
	}
	/* A RST ends an entry, and a SYN starts one. */
	if (is_syn(packet))
		fetch_cell(packet->digest);
	if (known == ~0U)
		known = known_of(packet->digest);
	if (flow || packet->tcp_flags & TCP_RST || is_syn(packet) || !pass_known_segment(skb, packet, known))
		return hand_to_slow_path(skb, packet, known);
	return PASS;
}

/* Deals with a datagram without an entry that is known to begin nothing; returns false for any other. */
static inline bool pass_known_datagram(struct __sk_buff *skb, const struct packet *packet)
{
	const struct note *note = packet->echo_request ? NULL : find_note(packet->digest);

	if (note && was_just_heard(note)) {
		count_event(EVENT_IGNORED_ANSWER);
		return true;
	}
	return is_marked(packet->digest) || (!note && is_at_tunnel(skb, packet) && refuse_tunnel(skb, packet));
}

/* It is asked for each datagram: a server's reply must not pass for the host's beginning (is_untaken() at egress). */
static __noinline bool stays_untaken(struct __sk_buff *skb, const struct packet *packet)
{
	put_in_scratch(packet);
	return has_no_server(taker(skb));
}

/* UDP, SCTP, echo and listed protocols. */
static inline void inbound_connectionless(struct __sk_buff *skb, const struct packet *packet)
{
	struct flow *flow;

	if (packet->echo_reply || pass_foreign(skb, packet))
		return;
	flow = find(packet, TABLE_CONNECTIONLESS);
	if (likely(flow && is_next_frame(skb, packet, flow)) &&
	    likely(!(flow->flags & FLOW_ALTERNATES)) && likely(!becomes_assured(flow)) &&
	    (likely(!is_untaken(flow)) || stays_untaken(skb, packet)))
		return set_active(flow);
	if (flow || !pass_known_datagram(skb, packet))
		hand_to_slow_path(skb, packet, flow ? KINDS_CONNECTIONLESS : 0);
}

static inline int ingress(struct __sk_buff *skb, __u32 header)
{
	struct packet packet = {};
	enum parsed result;
	int verdict = PASS;

	if (skb->pkt_type != PACKET_HOST) /* flooded frames for other stations are seen here too */
		return PASS;
	result = parse(skb, &packet, INBOUND, header);
	if (unlikely(result != PARSED))
		count_unparsed(result);
	else if (packet.protocol == IPPROTO_TCP)
		verdict = inbound_tcp(skb, &packet);
	else
		inbound_connectionless(skb, &packet);
	if (is_traced())
		trace_in(skb, header);
	return verdict;
}
