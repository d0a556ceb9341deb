/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Inbound packets that change a flow table: a flow begins, is established, is refreshed, moves or ends. */
#pragma once

#include "reply_source.h"
#include "fetch.h"
#include "move.h"
#include "mtu.h"
#include "outbound.h"

/* What the SYN, the SYN-ACK (note_answer()) and the ACK will look at. */
static inline void fetch_for_handshake(__u64 digest)
{
	fetch(get_tags(TABLE_HALF_OPEN, first_set(digest, sets[TABLE_HALF_OPEN])));
	fetch(get_tags(TABLE_ESTABLISHED, first_set(digest, sets[TABLE_ESTABLISHED])));
	fetch(get_notes(digest));
	fetch(get_marks(MARK_NO_FLOW, digest));
}

/*
 * A SYN starts a half-open entry, in a table of its own: a flood of them can push out nothing else, and a forged one
 * changes nothing for a connection that is established. One that is sent again may take another way; what we answered
 * stays known, as the ACK decides.
 */
static inline void inbound_syn(struct __sk_buff *skb, struct scratch *from)
{
	const struct packet *packet = &from->packet;
	struct flow *flow;

	if (likely(was_admitted(from, skb->ifindex, generation()))) /* what is not for us pays nothing */
		fetch_for_handshake(packet->digest);
	if (!may_start(skb))
		return;
	flow = find(packet, TABLE_HALF_OPEN);
	/* The host opened it, whatever the peer did meanwhile (RFC 9293, 3.5). */
	if (accept_answer(find_note(packet->digest)) && is_opening(skb))
		return count_event(EVENT_IGNORED_ANSWER);
	if (!flow && make_room_in_nursery(from)) {
		if (!enter(skb, from, TABLE_NURSERY, FLOW_HANDSHAKE))
			return;
	} else if (!flow || flow->flags & FLOW_STRAY || is_idle(flow, TABLE_HALF_OPEN)) {
		if (!enter(skb, from, TABLE_HALF_OPEN, 0))
			return;
	} else if (!came_by(flow, skb, packet) && is_pinned()) {
		return count_event(EVENT_REFUSED_PINNED);
	} else if (!set_way(skb, TABLE_HALF_OPEN)) {
		return;
	} else {
		flow->seen = now();
		flow->rcv_nxt = segment_end(packet) + 1;
	}
	announce_size(skb, packet, get_interface(interface_index(skb->ifindex), skb->ifindex));
}

/* Whether the segment answers what we sent. With Fast Open (RFC 7413) that may be more than the SYN-ACK. */
static inline bool answers_handshake(const struct packet *packet, const struct flow *handshake)
{
	return packet->tcp_flags & TCP_ACK && handshake->state & FLOW_ANSWERED &&
	       in_sequence(packet->ack, handshake->snd_una + 1, handshake->snd_nxt);
}

/*
 * The ACK that answers our SYN-ACK proves that the peer is where it says it is: its way becomes that of the connection.
 */
static inline bool establish(struct __sk_buff *skb, struct scratch *from, struct flow *handshake)
{
	const struct packet *packet = &from->packet;
	struct flow *flow = &from->flow;
	bool is_next, has_request;

	if (!answers_handshake(packet, handshake)) {
		count_event(EVENT_IGNORED_HANDSHAKE);
		return false;
	}
	fetch_vacancy(packet->digest, TABLE_ESTABLISHED);
	*flow = *handshake;
	if (!tuple_equal(&flow->tuple, &packet->tuple)) { /* another CPU gave its way to another */
		count_event(EVENT_INSERT_FAILED_ESTABLISHED);
		return false;
	}
	is_next = is_next_frame(skb, packet, flow);
	flow->seen = now();
	flow->flags &= ~(FLOW_ACTIVE | FLOW_RESET);
	has_request = flow->state & FLOW_REQUESTED;
	flow->state &= ~(FLOW_ANSWERED | FLOW_CLOSING | FLOW_REQUESTED);
	if (!came_by(flow, skb, packet) && is_pinned())
		count_event(EVENT_REFUSED_PINNED);
	else if (!came_by(flow, skb, packet) && came_by_tunnel(skb, packet))
		count_at_tunnel(skb, packet);
	else if (!is_next && !find_way_back(skb))
		return false;
	else if (!is_next)
		take_way(from, flow);
	if (!has_request && !has_socket(skb)) {
		flow->flags |= FLOW_NO_SOCKET;
		flow->snd_una = packet->ack;
		flow->rcv_nxt = segment_end(packet);
	}
	if (!enter_flow(TABLE_ESTABLISHED, true))
		return false;
	remove(packet->digest, TABLE_HALF_OPEN);
	relate(packet->digest, TABLE_ESTABLISHED);
	return true;
}

/*
 * A segment without an entry: the connection is older than replypath here, or its entry was pushed out, perhaps amid the
 * handshake. Its socket knows whether the segment is genuine and who opened it. Where the host did, that is noted; where
 * there is no socket, not even one that listens, a RST will answer, and the tuple is not asked about again for a while.
 * Any other segment changes nothing: a forged one must not keep out the genuine.
 */
static inline void adopt(struct __sk_buff *skb, struct scratch *from, bool handshake)
{
	const struct packet *packet = &from->packet;
	__u32 in_force = generation();

	if (!may_start(skb)) {
		/* The last ACK of a handshake may still come. An address that is not ours is marked itself. */
		if (!handshake && !is_foreign_address(packet, skb->ifindex))
			mark(MARK_NO_FLOW, packet->digest, in_force);
		return;
	}
	switch (ask_socket(skb)) {
	case VERDICT_NO_SOCKET:
		if (handshake) /* of a container, whose socket is elsewhere */
			return;
		count_event(EVENT_IGNORED_NO_SOCKET);
		admit_stray(skb, from);
		return mark(MARK_NO_FLOW, packet->digest, in_force);
	case VERDICT_LISTENS: /* the host may be another since: do not stop asking */
		admit_stray(skb, from);
		return count_event(EVENT_IGNORED_SEGMENT);
	case VERDICT_OPENING:
	case VERDICT_NO_CONNECTION:
	case VERDICT_REFUSED:
		return count_event(EVENT_IGNORED_SEGMENT);
	case VERDICT_ENDED:
		if (!has_finished(packet->digest))
			return count_event(EVENT_IGNORED_SEGMENT);
		if (enter(skb, from, TABLE_ESTABLISHED, FLOW_RESET)) /* idle soon */
			count_event(EVENT_READMITTED_ESTABLISHED);
		return;
	case VERDICT_OPENED:
		return host_connects(packet, skb->ifindex);
	case VERDICT_ACCEPTED:
		if (!enter(skb, from, TABLE_ESTABLISHED, 0))
			return;
		count_event(EVENT_READMITTED_ESTABLISHED);
		relate(packet->digest, TABLE_ESTABLISHED);
	}
}

/*
 * A SYN-ACK that nothing of ours asked for, as comes back to who is forged as the source of a SYN: it begins no flow,
 * but is answered with a RST. The peer of a connection that goes on sends none.
 */
static inline void inbound_syn_ack(struct __sk_buff *skb, struct scratch *from)
{
	const struct flow *flow = find_live(&from->packet, TABLE_ESTABLISHED);
	const struct flow *handshake;

	if (flow) {
		if (!is_closing(flow))
			count_contested(skb, &from->packet, flow);
		return;
	}
	handshake = find_live(&from->packet, TABLE_HALF_OPEN);
	if (!handshake || handshake->flags & FLOW_STRAY)
		adopt(skb, from, false);
}

/*
 * What had no socket at the end of its handshake may have one after all: SYN cookies make it with the last ACK only. What
 * passed for reset may go on: that RST was forged.
 */
static inline void refresh_tcp(struct __sk_buff *skb, struct scratch *from, struct flow *flow)
{
	const struct packet *packet = &from->packet;
	enum verdict verdict;

	if (flow->flags & (FLOW_NO_SOCKET | FLOW_RESET) && is_due(flow)) {
		verdict = ask_socket(skb);
		if (verdict > VERDICT_LISTENS)
			flow->flags &= ~FLOW_NO_SOCKET;
		if (verdict > VERDICT_ENDED)
			flow->flags &= ~FLOW_RESET;
	}
	refresh(skb, from, flow);
	note_received(packet, flow);
}

/*
 * A RST of the peer ends the flow, whose entry stays for a while from now on, or nothing. While the socket was asked,
 * another CPU may have given the entry to another flow, or to a handshake.
 */
static inline void end_by_reset(struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	if (!segment_is_plausible(skb, packet, flow))
		return count_contested(skb, packet, flow);
	if (flow->flags & (FLOW_RESET | FLOW_HANDSHAKE) || !tuple_equal(&flow->tuple, &packet->tuple))
		return;
	flow->seen = now();
	flow->flags |= FLOW_RESET;
}

/*
 * A change of a flow, or the end of a handshake, perhaps with the tuple of an earlier connection. Where that one goes
 * on and this is its way, no handshake is looked for: whether there is one makes no difference to where replies go, and
 * of many flows each look takes as long as memory takes.
 */
static inline void inbound_segment(struct __sk_buff *skb, struct scratch *from)
{
	const struct packet *packet = &from->packet;
	struct flow *flow = find(packet, TABLE_ESTABLISHED);
	bool live = flow && !is_idle(flow, TABLE_ESTABLISHED);
	struct flow *handshake;

	if (live && came_by(flow, skb, packet) && !is_closing(flow) &&
	    !(packet->tcp_flags & TCP_RST))
		return refresh_tcp(skb, from, flow);
	handshake = find_live(packet, TABLE_HALF_OPEN);
	if (handshake && handshake->flags & FLOW_STRAY)
		handshake = NULL;
	if (handshake && !(packet->tcp_flags & TCP_RST) && establish(skb, from, handshake))
		return;
	if (!live) {
		if (!(packet->tcp_flags & TCP_RST))
			adopt(skb, from, handshake);
		return;
	}
	if (packet->tcp_flags & TCP_RST)
		end_by_reset(skb, packet, flow);
	else if (came_by(flow, skb, packet))
		refresh_tcp(skb, from, flow);
	else
		follow_frame(skb, from, flow);
}

/* A RST of a connection in the nursery. Returns whether it was of one. */
static inline bool reset_young(struct __sk_buff *skb, const struct packet *packet)
{
	struct flow *flow = find_young(packet);

	if (!flow || flow->flags & FLOW_HANDSHAKE)
		return false;
	end_by_reset(skb, packet, flow);
	return true;
}

/* Nobody took the flow's datagrams; does a server now? A connected socket is the host's own or a proxy's. */
static inline void look_for_socket(struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	enum udp_socket socket = taker(skb);

	if (socket == UDP_SOCKET_NONE || socket == UDP_SOCKET_CONNECTED)
		return;
	flow->flags &= ~FLOW_NO_SOCKET;
	first_question_came(skb, packet, socket);
}

/*
 * Whether an idle entry proves that its peer began, whoever has connected a socket to it since: servers do so for each
 * of theirs. It proves nothing where nobody answered what came, as its sender may be forged, or where the host spoke
 * after that.
 */
static inline bool peer_began(const struct flow *idle)
{
	return idle && (idle->state & (FLOW_ANSWERED | FLOW_HOST_SPOKE)) == FLOW_ANSWERED;
}

static inline void inbound_datagram(struct __sk_buff *skb, struct scratch *from)
{
	const struct packet *packet = &from->packet;
	struct flow *flow = find(packet, TABLE_CONNECTIONLESS);
	enum udp_socket socket;
	bool is_known_peer;

	if (flow && !is_idle(flow, TABLE_CONNECTIONLESS)) {
		if (came_by(flow, skb, packet)) {
			flow->rival = 0;
			refresh(skb, from, flow);
		} else {
			follow_frame(skb, from, flow);
		}
		if (flow->flags & FLOW_NO_SOCKET)
			look_for_socket(skb, packet, flow);
		else if (source_repair(packet) == REPAIR_ON)
			cache_reply_source(skb, QUESTION);
		return;
	}
	is_known_peer = peer_began(flow); /* before another CPU gives its way to another */
	if (!packet->echo_request && /* not asked yet where there is an idle entry */
	    (accept_datagram_answer(skb, packet) || restore_evicted_note(skb, packet))) {
		answer_came(skb, packet);
		return count_event(EVENT_IGNORED_ANSWER);
	}
	if (!may_start(skb))
		return;
	socket = taker(skb);
	if (socket == UDP_SOCKET_CONNECTED && !is_known_peer)
		count_event(EVENT_IGNORED_ANSWER);
	else if (socket == UDP_SOCKET_NONE && own_address(packet->tuple.self))
		enter(skb, from, TABLE_CONNECTIONLESS, FLOW_NO_SOCKET);
	else if (enter(skb, from, TABLE_CONNECTIONLESS, 0)) {
		relate(packet->digest, TABLE_CONNECTIONLESS);
		first_question_came(skb, packet, socket);
	}
}

__noinline int inbound_change(struct __sk_buff *skb)
{
	struct scratch *from = get_scratch();

	if (!from)
		return 0;
	if (from->packet.protocol != IPPROTO_TCP) {
		inbound_datagram(skb, from);
		return 0;
	}
	if (from->packet.tcp_flags & TCP_RST) { /* what is young need not move for it */
		if (!reset_young(skb, &from->packet))
			inbound_segment(skb, from);
		return 0;
	}
	move_from_nursery(from->packet.digest);
	if (!(from->packet.tcp_flags & TCP_SYN))
		inbound_segment(skb, from);
	else if (from->packet.tcp_flags & TCP_ACK)
		inbound_syn_ack(skb, from);
	else
		inbound_syn(skb, from);
	return 0;
}
