/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fragments that we send: only the first one, which leaves first, has ports. All go the same way. */
#pragma once

#include "table.h"

/* Stands for the packet: a digest of addresses, identification and, by IPv4, protocol (RFC 791, 3.2; RFC 8200, 4.5). */
static inline __u64 fragment_key(struct packet *packet)
{
	__u32 protocol = packet->family == 4 ? packet->protocol : IPPROTO_FRAGMENT;
	__u64 *ports = (__u64 *)&packet->tuple + 4, kept = *ports, key;

	*ports = words(packet->identification, bpf_htonl(protocol << 24));
	key = digest(&packet->tuple, packet->family);
	*ports = kept;
	return key;
}

/* Remembers what was decided about the first fragment of the packet with this key. Returns 0. */
__noinline int enter_fragment(__u64 key, __u64 digest, __u32 table, __u32 outcome, __u32 protocol)
{
	struct fragment fragment = {
		.digest = digest, .seen = now(), .table = table, .outcome = outcome, .protocol = protocol,
	};

	bpf_map_update_elem(&fragments, &key, &fragment, BPF_ANY);
	return 0;
}

/* Copies what is known of the packet with this key into the scratch; false for nothing. */
__noinline int look_up_fragment(__u64 key)
{
	const struct fragment *first = bpf_map_lookup_elem(&fragments, &key);
	struct scratch *to = get_scratch();

	if (!first || !to || age(first->seen) > seconds(IDLE_FRAGMENT))
		return false;
	to->fragment = *first;
	return true;
}

static inline void note_fragment(struct packet *packet, enum table table, enum outcome outcome)
{
	enter_fragment(fragment_key(packet), packet->digest, table, outcome, packet->protocol);
}

/* The flow of a later fragment, NULL where the first one was of none, left as it was, or is not known. */
static __noinline struct flow *fragment_flow(struct packet *packet, enum table *table)
{
	const struct scratch *from = get_scratch();
	const struct fragment *first;
	struct flow *flow;

	if (!from || !look_up_fragment(fragment_key(packet)))
		return NULL;
	first = &from->fragment;
	if (first->table >= TABLE_ORIGINATED)
		return NULL;
	*table = first->table;
	flow = find_digest(first->digest, first->table);
	if (!flow || !has_ends_of(flow, &packet->tuple))
		return NULL;
	packet->digest = first->digest;
	packet->protocol = flow->tuple.protocol; /* IPv6 tells it in the first one only */
	if (first->outcome != OUTCOME_CORRECTED)
		packet->settled = first->outcome;
	return flow;
}
