/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What does not show the whole tuple of its flow: later fragments, and ICMP errors (RFC 792; RFC 4443, 3). What it
 * shows leads to a flow (docs/design/flow-tables.md, "Leads"). That may be over, or forged: who follows a lead compares
 * what else is known.
 */
#pragma once

#include "table.h"

/* `identification`: of fragments, else 0. */
static inline __u64 lead_key(enum lead_kind kind, const struct tuple *tuple, __u32 identification)
{
	struct tuple shown = *tuple;

	shown.protocol = 0;
	if (kind == LEAD_ASKER)
		__builtin_memset(shown.self, 0, sizeof(shown.self));
	else
		*(__u32 *)&shown.peer_port = identification;
	return (digest(&shown, 6) & -(__u64)LEAD_KINDS) | kind;
}

static inline const struct lead *find_lead(__u64 key)
{
	return bpf_map_lookup_elem(&leads, &key);
}

static inline void enter_lead(__u64 key, __u64 digest, enum table table, enum outcome outcome, __u8 protocol)
{
	struct lead lead = { digest, now(), table, outcome, protocol, 0 };

	bpf_map_update_elem(&leads, &key, &lead, BPF_ANY);
}

/* Remembers what was decided about the first fragment of a packet. */
static __noinline void settle_fragments(struct packet *packet, enum table table, enum outcome outcome)
{
	enter_lead(lead_key(LEAD_PARTS, &packet->tuple, packet->identification), packet->digest, table, outcome,
		   packet->protocol);
}

/* The flow of a later fragment, which goes as the first one did. Where that is not known, `table` stays what it is. */
static __noinline struct flow *fragment_flow(struct packet *packet, enum table *table)
{
	const struct lead *first = find_lead(lead_key(LEAD_PARTS, &packet->tuple, packet->identification));
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
	struct packet *quote = scratch_packet();
	struct flow *flow;

	*quote = (struct packet){ .length = packet->length - sizeof(struct icmp6hdr) };
	if (parse_ip(skb, quote, QUOTED, packet->offset + sizeof(struct icmp6hdr)) != PARSED || quote->echo_reply)
		return NULL;
	quote->digest = digest(&quote->tuple, quote->family);
	*table = TABLE_CONNECTIONLESS;
	flow = quote->protocol == IPPROTO_TCP ? find_tcp(quote, table, false) : find_live(quote, TABLE_CONNECTIONLESS);
	if (!flow || !address_equal(flow->tuple.peer, packet->tuple.peer))
		return NULL;
	packet->digest = quote->digest;
	return flow;
}
