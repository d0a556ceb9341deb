/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What leaves without ports of its own: later fragments, of a packet whose first fragment has left before, and ICMP
 * errors, which go back by the path of the packet that they quote (RFC 792; RFC 4443, 3).
 */
#pragma once

#include "table.h"

/* Stands for the packet: a digest of addresses, identification and, by IPv4, protocol (RFC 791, 3.2; RFC 8200, 4.5). */
static inline __u64 fragment_key(struct packet *packet)
{
	__u32 protocol = packet->family == 4 ? packet->protocol : IPPROTO_FRAGMENT;
	__u64 *ports = (__u64 *)&packet->tuple + 4, kept = *ports, key;

	*ports = join_words(packet->identification, bpf_htonl(protocol << 24));
	key = digest(&packet->tuple, packet->family);
	*ports = kept;
	return key;
}

/* Remembers what was decided about the first fragment of a packet. */
static __noinline void settle_fragments(struct packet *packet, enum table table, enum outcome outcome)
{
	__u64 key = fragment_key(packet);
	struct fragment fragment = {
		.digest = packet->digest, .seen = now(), .table = table, .outcome = outcome, .protocol = packet->protocol,
	};

	bpf_map_update_elem(&fragments, &key, &fragment, BPF_ANY);
}

/*
 * The flow of a later fragment, which takes over what was decided about the first one; NULL where that was of none, left
 * as it was, or is not known. In the last case `table` stays what it is.
 */
static __noinline struct flow *fragment_flow(struct packet *packet, enum table *table)
{
	__u64 key = fragment_key(packet);
	const struct fragment *first = bpf_map_lookup_elem(&fragments, &key);
	struct flow *flow;

	if (!first || age(first->seen) > seconds(IDLE_FRAGMENT))
		return NULL;
	packet->digest = first->digest;
	packet->protocol = packet->tuple.protocol = first->protocol; /* IPv6 tells it in the first one only */
	if (first->outcome != OUTCOME_CORRECTED)
		packet->settled = first->outcome;
	*table = first->table;
	flow = *table <= TABLE_CONNECTIONLESS ? find_digest(packet->digest, *table) : NULL;
	return flow && has_ends_of(flow, &packet->tuple) ? flow : NULL;
}

/* The flow that an error of ours is about, if the error goes to its peer. What it quotes becomes the scratch packet. */
static __noinline struct flow *quoted_flow(struct __sk_buff *skb, struct packet *packet, enum table *table)
{
	struct scratch *scratch = get_scratch();
	struct packet *quote;
	struct flow *flow;

	if (!scratch)
		return NULL;
	quote = &scratch->packet;
	*quote = (struct packet){ .length = packet->length - sizeof(struct echo) };
	if (parse_ip(skb, quote, QUOTED, packet->offset + sizeof(struct echo)) != PARSED || quote->echo_reply)
		return NULL;
	quote->digest = digest(&quote->tuple, quote->family);
	*table = TABLE_CONNECTIONLESS;
	flow = quote->protocol == IPPROTO_TCP ? find_tcp(quote, table, false) : find_live(quote, TABLE_CONNECTIONLESS);
	if (!flow || !address_equal(flow->tuple.peer, packet->tuple.peer))
		return NULL;
	packet->digest = quote->digest;
	return flow;
}
