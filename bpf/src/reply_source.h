/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The reply-source cache: by which of its flows a UDP peer asked last. A socket that is bound to the wildcard address
 * does not say from which address it answers, only to which address and port: source.h finds the flow by these. An
 * entry names the flow by its digest and counts for as long as the flow does, so that it has no age of its own and the
 * fast path has nothing to write.
 *
 * Entered by the slow path: when a flow begins, and once a second. Where one socket of a peer asks several of our
 * addresses at one port, all of these flows are marked FLOW_ALTERNATES and go the slow path with every datagram, as an
 * unconnected server answers in order: the last question counts.
 *
 * Where the host began with a peer, from a socket that is bound to no address, and was answered, an entry names the
 * tuple by which it did. It counts for as long as the note of that (outbound.h), and no question takes its place
 * meanwhile: what the host sends there is its own conversation, and goes as routed.
 */
#pragma once

#include "outbound.h"
#include "socket.h"

/* Of the peer's address and both ports: what is left of the tuple without our address. */
static inline __u64 asker_digest(const struct tuple *tuple, __u8 family)
{
	const __u32 *word = (const __u32 *)tuple;
	__u64 sum = word[3] * digest_seed[3] + word[8] * digest_seed[8];

	_Static_assert(offsetof(struct tuple, peer_port) == 32, "word 8: the ports");
	if (family == 6)
		sum += word[0] * digest_seed[0] + word[1] * digest_seed[1] +
		       word[2] * digest_seed[2];
	return finish_digest(sum);
}

static inline struct asked_set *get_asked_set(__u64 asker, __u32 *index)
{
	*index = first_set(asker, asked_sets);
	return bpf_map_lookup_elem(&asked, index);
}

static inline struct flow *live_flow(__u64 digest)
{
	struct flow *flow = find_digest(digest, TABLE_CONNECTIONLESS);

	return flow && !is_idle(flow, TABLE_CONNECTIONLESS) ? flow : NULL;
}

/* Whether the host began by the tuple with this digest, and was answered. */
__noinline int is_begun(__u64 digest)
{
	const struct note *note = find_note(digest);

	return note && note->heard;
}

/* eviction_priority() of the flow with this digest. What the host began and was answered stays: no stranger made it. */
__noinline int rank_of_digest(__u64 digest)
{
	const struct flow *flow = live_flow(digest);
	__u32 rank;

	if (!flow)
		return is_begun(digest) ? 0 : OVER;
	rank = eviction_priority(flow, TABLE_CONNECTIONLESS, now());
	return rank + (rank != OVER); /* never 0 */
}

/*
 * Where a new entry goes: a free way or one whose flow is over, else that of the flow that would have to go first from
 * the flow table. A flood of questions thus pushes out its own kind before any conversation.
 */
static inline void look_for_asker(const struct asked_set *set, volatile struct vacancy *vacancy)
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

/* The socket asked by another flow before: from now on each of the two has to tell when it is asked by. */
static inline void mark_alternating(const struct packet *packet, __u64 before)
{
	struct flow *other = live_flow(before), *flow = live_flow(packet->digest);

	if (!other || !flow || other->tuple.peer_port != packet->tuple.peer_port)
		return;
	if (!(other->flags & FLOW_ALTERNATES))
		other->flags |= FLOW_ALTERNATES;
	if (!(flow->flags & FLOW_ALTERNATES))
		flow->flags |= FLOW_ALTERNATES;
}

/* The socket that takes the datagram. */
static inline enum udp_socket taker(struct __sk_buff *skb)
{
	const struct interface *interface = get_interface(interface_index(skb->ifindex), skb->ifindex);

	return udp_socket(skb, interface ? interface->vrf : 0);
}

/* Whether what such a socket takes may be for one that is bound to no address. */
static inline bool may_be_wildcard(enum udp_socket socket)
{
	return socket == UDP_SOCKET_WILDCARD || socket == UDP_SOCKET_OTHER;
}

/* Whether the scratch packet may. */
__noinline int is_for_wildcard(struct __sk_buff *skb)
{
	return may_be_wildcard(taker(skb));
}

static inline enum source_repair source_repair(const struct packet *packet)
{
	struct settings *settings = get_settings();

	if (packet->protocol != IPPROTO_UDP || !settings)
		return REPAIR_OFF;
	return settings->repair;
}

/* What a datagram of a peer's is. */
enum said {
	FIRST_QUESTION, /* of a flow; and who takes it is known */
	QUESTION,
	ANSWER, /* to what the host began */
};

/*
 * Writes the entry, at that place where the asker had none; unless another CPU has changed it since it was looked at,
 * `before` being the flow that it named then: one asker with two entries would have its answers take either. The peer's
 * next datagram that is looked at tries again.
 */
static inline bool write_reply_source(struct asked_set *set, struct bpf_spin_lock *lock, __u64 asker,
				      __u64 digest, __u64 before, __u32 place)
{
	__u64 found = 0;
	int way;

	bpf_spin_lock(lock);
	way = find_way(set->asker, asker);
	if (way >= 0) {
		place = way;
		found = set->flow[way % WAYS];
	}
	place %= WAYS;
	if (found == before) {
		set->asker[place] = asker;
		set->flow[place] = digest;
	}
	bpf_spin_unlock(lock);
	return found == before;
}

/*
 * The peer of the scratch packet, which is in the connectionless table, asked by this flow; or answered what the host
 * began by this tuple. That concerns the sockets that are bound to no address: who takes the datagram is looked at
 * where an entry would change, else it would be once a second for every flow.
 */
__noinline int cache_reply_source(struct __sk_buff *skb, __u32 said)
{
	struct scratch *from = get_scratch();
	struct bpf_spin_lock *lock;
	struct asked_set *set;
	__u64 asker, digest, before = 0;
	__u32 index;
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
	if (way >= 0)
		before = set->flow[way % WAYS];
	if (before == digest)
		return 0;
	if (!own_address(from->packet.tuple.self)) /* a flow that we forward asks nobody here */
		return 0;
	if (before && said != ANSWER && is_begun(before))
		return 0;
	if (said != FIRST_QUESTION && !is_for_wildcard(skb))
		return 0;
	if (!before)
		look_for_asker(set, &from->vacancy[0]);
	if (write_reply_source(set, lock, asker, digest, before, from->vacancy[0].way) && before)
		mark_alternating(&from->packet, before);
	return 0;
}

/* Tells the loader that a socket is there whose answers need the address that was asked. */
static inline void want_repair(void)
{
	__u64 once = 1;

	bpf_ringbuf_output(&repair_wanted, &once, sizeof(once), 0);
}

/* A flow began, to such a socket. */
static inline void first_question_came(struct __sk_buff *skb, const struct packet *packet,
				       enum udp_socket socket)
{
	enum source_repair repair = source_repair(packet);
	bool wildcard = socket == UDP_SOCKET_WILDCARD;

	if ((repair == REPAIR_ON && may_be_wildcard(socket)) || (repair == REPAIR_WATCH && wildcard))
		cache_reply_source(skb, FIRST_QUESTION);
	if (repair == REPAIR_WATCH && wildcard)
		want_repair();
}

/*
 * The peer answers what the host began, for the first time this second. That shows by which way it comes; and the answer
 * before may have come while nothing was repaired, or its entry been pushed out.
 */
static inline void answer_came(struct __sk_buff *skb, const struct packet *packet, struct note *note)
{
	note->heard = now();
	relate_answer(skb);
	if (source_repair(packet) != REPAIR_OFF)
		cache_reply_source(skb, ANSWER);
}
