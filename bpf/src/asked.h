/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which of its flows a UDP peer asked by last. A socket that is bound to the
 * wildcard address does not say from which address it answers, only to which
 * address and port: source.h finds the flow by these. An entry names the flow by
 * its digest and counts for as long as the flow does, so that it has no age of
 * its own and the fast path has nothing to write.
 *
 * Entered by the slow path: when a flow begins, and once a second. Where one
 * socket of a peer asks several of our addresses at one port, all of these flows
 * are marked FLOW_ALTERNATES and go the slow path with every datagram, as an
 * unconnected server answers in order: the last question counts.
 */
#pragma once

#include "settings.h"
#include "table.h"

/* Of the peer's address and both ports: what is left of the tuple without our address. */
static __always_inline __u64 asker_digest(const struct tuple *tuple, __u8 family)
{
	const __u32 *word = (const __u32 *)tuple;
	__u64 sum = word[3] * digest_seed[3] + word[8] * digest_seed[8];

	_Static_assert(offsetof(struct tuple, peer_port) == 32, "word 8: the ports");
	if (family == 6)
		sum += word[0] * digest_seed[0] + word[1] * digest_seed[1] +
		       word[2] * digest_seed[2];
	return finish_digest(sum);
}

static __always_inline struct asked_set *get_asked_set(__u64 asker, __u32 *index)
{
	*index = first_set(asker, asked_sets);
	return bpf_map_lookup_elem(&asked, index);
}

/* The flow with this digest unless it is idle. */
static __always_inline struct flow *live_flow(__u64 digest)
{
	struct flow *flow = find_digest(digest, TABLE_CONNECTIONLESS);

	return flow && !is_idle(flow, TABLE_CONNECTIONLESS) ? flow : NULL;
}

/*
 * dispensable() of the flow with this digest. A global function, which the verifier looks at
 * once only.
 */
__noinline int rank_of_digest(__u64 digest)
{
	const struct flow *flow = find_digest(digest, TABLE_CONNECTIONLESS);

	return flow ? dispensable(flow, TABLE_CONNECTIONLESS, now()) : OVER;
}

/*
 * Where a new entry goes: a free way or one whose flow is over, else that of the
 * flow that would have to go first from the flow table. A flood of questions thus
 * pushes out its own kind before any conversation.
 */
static __always_inline void look_for_asker(const struct asked_set *set,
					   volatile struct vacancy *vacancy)
{
	vacancy->rank = 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < WAYS; i++) {
		__u32 rank = set->asker[i] ? rank_of_digest(set->flow[i]) : OVER;

		if (rank < vacancy->rank)
			continue;
		vacancy->way = i;
		vacancy->rank = rank;
	}
}

/*
 * The socket asked by another flow before: from now on each of the two has to
 * tell when it is asked by.
 */
static __always_inline void mark_alternating(const struct packet *packet, __u64 before)
{
	struct flow *other = live_flow(before), *flow = live_flow(packet->digest);

	if (!other || !flow || other->tuple.peer_port != packet->tuple.peer_port)
		return;
	if (!(other->flags & FLOW_ALTERNATES))
		other->flags |= FLOW_ALTERNATES;
	if (!(flow->flags & FLOW_ALTERNATES))
		flow->flags |= FLOW_ALTERNATES;
}

/*
 * The peer of the scratch packet, which is in the connectionless table, asked by
 * this flow. A global function, which the verifier looks at once.
 */
__noinline int note_question(void)
{
	struct scratch *from = get_scratch();
	struct bpf_spin_lock *lock;
	struct asked_set *set;
	__u64 asker, digest;
	__u32 index, place;
	int way;

	if (!from)
		return 0;
	digest = from->packet.digest;
	asker = asker_digest(&from->packet.tuple, from->packet.family);
	set = get_asked_set(asker, &index);
	lock = get_lock(index);
	if (!set || !lock)
		return 0;
	way = find_way(set->asker, asker);
	if (way >= 0 && set->flow[way] == digest)
		return 0;
	if (!own_address(from->packet.tuple.self)) /* a flow that we forward asks nobody here */
		return 0;
	if (way >= 0) {
		mark_alternating(&from->packet, set->flow[way]);
		place = way;
	} else {
		look_for_asker(set, &from->vacancy[0]);
		place = from->vacancy[0].way;
	}
	place %= WAYS;
	bpf_spin_lock(lock);
	set->asker[place] = asker;
	set->flow[place] = digest;
	bpf_spin_unlock(lock);
	return 0;
}

/* Tells the loader that a socket is there whose answers need the address that was asked. */
static __always_inline void want_repair(void)
{
	__u64 once = 1;

	bpf_ringbuf_output(&repair_wanted, &once, sizeof(once), 0);
}

static __always_inline enum source_repair source_repair(const struct packet *packet)
{
	struct settings *settings = get_settings();

	if (packet->protocol != IPPROTO_UDP || !settings)
		return REPAIR_OFF;
	return settings->repair;
}

/* A datagram of the flow went the slow path. */
static __always_inline void question_came(const struct packet *packet)
{
	if (source_repair(packet) == REPAIR_ON)
		note_question();
}

/* A flow began, to a socket that is bound to the wildcard address or to another or none. */
static __always_inline void first_question_came(const struct packet *packet,
						bool wildcard)
{
	enum source_repair repair = source_repair(packet);

	if (repair == REPAIR_ON || (repair == REPAIR_WATCH && wildcard))
		note_question();
	if (repair == REPAIR_WATCH && wildcard)
		want_repair();
}
