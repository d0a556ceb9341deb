/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tuples in which the host spoke first: what comes in by them is an answer, not a flow. */
#pragma once

#include "admission.h"

/* The note about a tuple: in this way of this set; without a set there is none. */
struct note {
	struct outbound_set *set;
	__u32 way;
};

static __always_inline struct note find_note(__u64 digest)
{
	__u32 index = first_set(digest, sets[TABLE_OUTBOUND]);
	struct outbound_set *set = bpf_map_lookup_elem(&outbound, &index);
	int way;

	if (!set)
		return (struct note){};
	way = find_way(set->digest, digest);
	if (way < 0)
		return (struct note){};
	return (struct note){ set, way };
}

/* Written at most once a second, so that the cache line stays shared. */
static __always_inline void refresh_note(struct note note)
{
	__u32 *sent = &note.set->sent[note.way];

	if (age(*sent) >= seconds(1))
		*sent = now();
}

/*
 * Whether the host sent by this tuple lately, before anything came in. If so, this
 * is an answer: the note is worth more than one that nobody answered.
 */
static __always_inline bool note_answers(struct note note)
{
	if (!note.set || age(note.set->sent[note.way]) > seconds(IDLE_OUTBOUND))
		return false;
	if (!note.set->answered[note.way])
		note.set->answered[note.way] = 1;
	return true;
}

static __always_inline bool host_spoke_first(const struct packet *packet)
{
	return note_answers(find_note(packet->digest));
}

/*
 * Whether the note is from before all that came in by this interface was seen, and nothing
 * was, by any other: who spoke first it does not tell.
 */
static __always_inline bool is_hearsay(const struct __sk_buff *skb, struct note note)
{
	const struct interface *interface;
	__u32 time = now();

	if (!note.set || note.set->answered[note.way])
		return false;
	interface = get_interface(interface_index(skb->ifindex), skb->ifindex);
	return interface && interface->since &&
	       (is_ahead(interface->since, time) ||
		age_at(note.set->sent[note.way], time) > age_at(interface->since, time));
}

/* host_spoke_first() of a datagram, which no socket can be asked about. */
static __always_inline bool host_asked_first(const struct __sk_buff *skb,
					     const struct packet *packet)
{
	struct note note = find_note(packet->digest);

	return !is_hearsay(skb, note) && note_answers(note);
}

/*
 * Why a tuple is not noted, EVENT_END where it is: what no answer to could start a
 * flow anyway. Else who may ask an excluded port could fill the table with our answers.
 */
static __always_inline enum event reason_against(const struct packet *packet,
						 const struct settings *settings)
{
	enum event reason = refusal(&packet->tuple, settings);

	if (reason != EVENT_END)
		return reason;
	return is_listed(settings, packet->protocol) && !is_dhcp(&packet->tuple)
		       ? EVENT_END
		       : EVENT_IGNORED_PROTOCOL;
}

#define OUTDATED (~0U - 1)

/*
 * A free note of the set, else an outdated one, else one that nobody answered, as a
 * scan leaves behind, else the oldest.
 */
static __always_inline struct vacancy outbound_vacancy(const struct outbound_set *set, __u32 time)
{
	struct vacancy oldest = {};

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < WAYS; i++) {
		__u32 sent = age_at(set->sent[i], time), rank = sent;

		if (!set->answered[i])
			rank |= DISPENSABLE;
		if (sent > seconds(IDLE_OUTBOUND))
			rank = OUTDATED;
		if (!set->digest[i])
			rank = ~0U;
		if (rank < oldest.rank)
			continue;
		oldest.way = any_way(i, time);
		oldest.digest = set->digest[i];
		oldest.rank = rank;
	}
	return oldest;
}

/* By what it is marked that the note about a tuple was pushed out. */
static __always_inline __u64 lost_note(__u64 digest)
{
	return digest ^ DIGEST_MULTIPLIER << 1; /* the lowest bit stays */
}

/*
 * Notes that the host spoke first by this tuple, and whether it has been answered. What makes
 * room is chosen under the lock: of two CPUs with new tuples of one set, or with the same
 * tuple, each would else overwrite or double what the other has just written.
 */
static __noinline void note_outbound(const struct packet *packet, bool answered)
{
	__u32 index = first_set(packet->digest, sets[TABLE_OUTBOUND]), time = now();
	struct outbound_set *set = bpf_map_lookup_elem(&outbound, &index);
	struct bpf_spin_lock *lock = get_lock(index);
	struct settings *settings = get_settings();
	__u64 digest = packet->digest;
	struct vacancy vacancy;
	enum event reason;
	__u32 generation;
	int way;

	if (!set || !lock || !settings)
		return;
	generation = *(volatile __u32 *)&settings->generation;
	reason = reason_against(packet, settings);
	if (reason == EVENT_IGNORED_NOT_OWN)
		return mark_foreign(self_digest(&packet->tuple), generation);
	if (reason != EVENT_END)
		return mark_foreign(packet->digest, generation);

	bpf_spin_lock(lock);
	way = find_way(set->digest, digest);
	if (way >= 0) {
		set->answered[way] |= answered;
		bpf_spin_unlock(lock);
		return;
	}
	vacancy = outbound_vacancy(set, time);
	way = vacancy.way % WAYS;
	set->sent[way] = time;
	set->answered[way] = answered;
	set->digest[way] = digest;
	bpf_spin_unlock(lock);

	count_event(EVENT_ADMITTED_OUTBOUND);
	if (vacancy.rank < OUTDATED)
		count_event(EVENT_EVICTED_OUTBOUND);
	/* The next answer is no beginning, nor is the first to what was asked just now. */
	if (vacancy.rank < (DISPENSABLE | seconds(1)))
		mark_foreign(lost_note(vacancy.digest), generation); /* TCP asks its sockets, but a digest does not tell */
}

/*
 * Whether the host spoke first by this tuple, and the note about that was pushed out
 * lately. It is made anew then.
 */
static __always_inline bool host_had_spoken_first(const struct packet *packet)
{
	if (likely(!is_foreign(lost_note(packet->digest))))
		return false;
	note_outbound(packet, true);
	return true;
}

static __always_inline bool is_grace(void)
{
	__u32 zero = 0, *until = bpf_map_lookup_elem(&grace, &zero);

	return until && is_ahead(*until, now());
}

/*
 * A datagram leaves and no flow is known, so the host speaks first, unless the
 * flow was pushed out a moment ago.
 */
static __always_inline void host_speaks(const struct packet *packet)
{
	struct note note = find_note(packet->digest);

	if (likely(note.set))
		refresh_note(note);
	else if (!is_foreign_address(packet) && !is_foreign(packet->digest) && !is_grace() &&
		 !is_marked(packet->digest))
		note_outbound(packet, false);
}

/* Whether a segment without an entry is of a connection that the host opened. */
static __always_inline bool is_answer(const struct packet *packet)
{
	struct note note = find_note(packet->digest);

	if (unlikely(!note_answers(note)))
		return false;
	refresh_note(note);
	return true;
}

/* The host opens a connection: its peer's segments are answers from the first on. */
static __always_inline void host_connects(const struct packet *packet)
{
	struct note note = find_note(packet->digest);

	if (note.set)
		note.set->sent[note.way] = now();
	else
		note_outbound(packet, false);
}

/* The host accepts a connection with this tuple: what it did with it before is past. */
static __always_inline void forget_outbound(__u64 digest)
{
	__u32 index = first_set(digest, sets[TABLE_OUTBOUND]);
	struct outbound_set *set = bpf_map_lookup_elem(&outbound, &index);
	struct bpf_spin_lock *lock = get_lock(index);
	int way;

	if (!set || !lock)
		return;
	way = find_way(set->digest, digest);
	if (way < 0)
		return;
	bpf_spin_lock(lock);
	if (set->digest[way] == digest)
		set->digest[way] = 0;
	bpf_spin_unlock(lock);
}
