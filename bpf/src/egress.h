/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What goes out: replies go back by the path that their flow came in by. */
#pragma once

#include "handshake.h"

/* The entry stays for a while from our FIN or RST on, and from when the FIN is sent again. Returns its entry. */
static __noinline struct flow *start_closing(const struct packet *packet, struct flow *flow)
{
	if (flow->state & FLOW_CLOSING) {
		if (packet->tcp_flags & TCP_FIN && is_due(flow)) {
			flow->seen = now();
			renew_place(packet->digest, KINDS_ESTABLISHED);
		}
		return flow;
	}
	if (is_due(flow)) { /* it may have been silent for long */
		put_in_scratch(packet);
		relate(TABLE_ESTABLISHED);
	}
	flow->seen = now();
	return set_kind(packet->digest, KINDS_ESTABLISHED, KIND_CLOSING, FLOW_CLOSING, 0) ? flow : NULL;
}

/*
 * Whether the segment is the handshake's: the SYN-ACK, what follows it without a gap (Fast Open), or the RST of a
 * closed port. Any other belongs to a connection that a forged SYN must not steer.
 */
static __noinline bool track_handshake(struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	bool is_reset = packet->tcp_flags & TCP_RST;
	__u32 end = segment_end(packet);

	if (flow->flags & FLOW_STRAY) /* the RST that answers a segment without a socket */
		return is_reset;
	if (packet->tcp_flags & TCP_SYN) {
		track_syn_ack(skb, packet, flow);
		if (flow->state & FLOW_REPLIED && flow->snd_una == packet->seq)
			return true; /* sent again */
		flow->snd_una = packet->seq;
		flow->snd_nxt = end + 1;
		flow->state |= FLOW_REPLIED;
		/* The host accepts a connection: what it did with the tuple before is past. */
		if (unlikely(known_of(packet->digest) & 1 << KIND_NOTE))
			forget(packet->digest, 1 << KIND_NOTE);
		clear_mark(packet->digest);
		return true;
	}
	if (!(flow->state & FLOW_REPLIED))
		return is_reset && !packet->seq;
	if (!in_sequence(packet->seq, flow->snd_una + 1, flow->snd_nxt))
		return false;
	if (!is_reset && (__s32)(end - flow->snd_nxt) > 0)
		flow->snd_nxt = end;
	return true;
}

/* Whether the packet is of nobody here: it is looked for in no table, as pass_foreign() has it. */
static inline bool is_forwarded(struct __sk_buff *skb, const struct packet *packet)
{
	return skb->ingress_ifindex && is_foreign(self_of(packet), packet->family, 0);
}

/*
 * A SYN-ACK asks the half-open table first, all else the established one. Each falls back on the other: the kernel
 * sends a SYN-ACK again when it dropped the ACK for want of room (listen(2), backlog).
 */
static inline struct flow *track_tcp(struct __sk_buff *skb, const struct packet *packet,
				     enum table *table)
{
	struct flow *flow;

	if (is_forwarded(skb, packet))
		return NULL;
	if (unlikely(is_syn(packet))) {
		/* A guest above the device (macvtap) that has the host's address begins nothing of it, and ends nothing. */
		if (!is_hosts_frame(skb, interface_at(skb->ifindex)))
			return NULL;
		/* The host opens a connection: whatever came in by this tuple is over. */
		host_begins(packet, skb->ingress_ifindex);
		forget(packet->digest, KINDS_HALF_OPEN | KINDS_ESTABLISHED);
		return NULL;
	}
	if (unlikely(packet->tcp_flags & TCP_SYN)) {
		*table = TABLE_HALF_OPEN;
		flow = find_live(packet, TABLE_HALF_OPEN);
		if (likely(flow && track_handshake(skb, packet, flow)))
			return flow;
	}
	flow = find_tcp(packet, table, true);
	if (!flow)
		return NULL;
	if (unlikely(*table == TABLE_HALF_OPEN))
		return track_handshake(skb, packet, flow) ? flow : NULL;
	if (unlikely(packet->tcp_flags & (TCP_FIN | TCP_RST)) && is_hosts_frame(skb, interface_at(skb->ifindex)) &&
	    ends_connection(skb, packet, flow))
		flow = start_closing(packet, flow);
	if (flow && unlikely(flow->flags & (FLOW_NO_SOCKET | FLOW_ON_TRIAL)))
		track_segment(skb, packet, flow);
	return flow;
}

/*
 * The peer is silent and we speak, which renews a conversation as well, as in conntrack
 * (net/netfilter/nf_conntrack_proto_udp.c). Datagrams that nobody here took may be forged.
 */
static __noinline void renew_by_reply(const struct packet *packet, struct flow *flow)
{
	bool taken = flow->tuple.protocol == IPPROTO_UDP && !(flow->flags & FLOW_NO_SOCKET);

	if ((taken || flow->flags & FLOW_ASSURED) && age(flow->spoke) >= seconds(1)) {
		flow->spoke = now();
		renew_place(packet->digest, KINDS_CONNECTIONLESS);
	}
}

static inline struct flow *track_connectionless(struct __sk_buff *skb, const struct packet *packet,
						enum table *table)
{
	struct flow *flow;
	bool quiet;

	if (packet->echo_request || is_forwarded(skb, packet))
		return NULL;
	*table = TABLE_CONNECTIONLESS;
	flow = find(packet, TABLE_CONNECTIONLESS);
	quiet = flow && unlikely(is_due(flow));
	if (quiet && is_idle(flow, TABLE_CONNECTIONLESS)) {
		if (proves_peer_began(flow))
			return NULL; /* what we push after silence is no beginning */
		flow = NULL;
	}
	/* The host begins by the tuple of a flow that was for nobody, or whose sender is forged. */
	if (flow && unlikely(is_untaken(flow)) && speaks_for_itself(skb, packet)) {
		forget(packet->digest, KINDS_CONNECTIONLESS);
		flow = NULL;
	}
	if (!flow) {
		if (!packet->echo_reply)
			host_speaks(skb, packet);
		return NULL;
	}
	if (!(flow->state & FLOW_REPLIED))
		flow->state |= FLOW_REPLIED;
	if (quiet)
		renew_by_reply(packet, flow);
	return flow;
}

/* The flow of a packet that leaves, with its state kept; NULL where it is of none. */
static inline struct flow *track(struct __sk_buff *skb, struct packet *packet, enum parsed result,
				 enum table *table)
{
	if (result == PARSED)
		return packet->protocol == IPPROTO_TCP ? track_tcp(skb, packet, table)
						       : track_connectionless(skb, packet, table);
	if (result == PARSED_ERROR)
		return quoted_flow(skb, packet, table);
	return result == PARSED_FRAGMENT ? fragment_flow(packet, table) : NULL;
}

static inline int egress(struct __sk_buff *skb, __u32 header)
{
	struct packet packet = {};
	enum table table = TABLE_END;
	struct record *record = NULL;
	enum parsed result;
	struct flow *flow;
	bool is_for_nobody;
	int verdict;

	if (skb->tc_index && arrived(skb))
		return PASS;
	result = parse(skb, &packet, OUTBOUND, header);
	flow = track(skb, &packet, result, &table);
	if (!flow && has_addresses(result) && unlikely(!suits_source(skb, &packet))) {
		record = originated_by(skb, &packet, result, &table);
		if (record)
			flow = &get_scratch()->flow;
	}
	verdict = flow ? reply(skb, &packet, flow, table, record, header) : PASS;
	if (unlikely(!flow && result != PARSED))
		count_unparsed(result);
	is_for_nobody = header && unlikely(is_nobody(packet.mac)) && verdict == PASS && packet.outcome != OUTCOME_CORRECTED;
	if (is_traced())
		trace_out(skb, &packet, result, flow ? table : TABLE_END,
			  is_for_nobody && !goes_to_neighbour(skb, &packet) ? TC_ACT_SHOT : verdict);
	return is_for_nobody ? end_at_nobody(skb, &packet) : verdict;
}
