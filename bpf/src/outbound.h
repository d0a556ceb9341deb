/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tuples whose originator is the host (as in conntrack): what comes in by them is an answer, not a flow. */
#pragma once

#include "admission.h"
#include "related.h"

/* The note about a tuple: in this way of this set; without a set there is none. */
struct note {
	struct outbound_set *set;
	__u32 way;
};

static inline struct outbound_set *get_notes(__u64 digest)
{
	__u32 index = first_set(digest, sets[TABLE_OUTBOUND]);

	return bpf_map_lookup_elem(&outbound, &index);
}

static inline struct note find_note(__u64 digest)
{
	struct outbound_set *set = get_notes(digest);
	int way;

	if (!set)
		return (struct note){};
	way = find_way(set->digest, digest);
	if (way < 0)
		return (struct note){};
	return (struct note){ set, way };
}

/* Whether somebody answered what the host sent by this tuple lately. */
static inline bool was_answered(struct note note)
{
	return note.set && note.set->answered[note.way] & NOTE_ANSWERED &&
	       age(note.set->sent[note.way]) <= seconds(IDLE_OUTBOUND);
}

/* Written at most once a second, so that the cache line stays shared. Returns whether it was. */
static inline bool refresh_note(struct note note)
{
	__u32 *sent = &note.set->sent[note.way], *answered = &note.set->answered[note.way];
	__u32 before = age(*sent);

	if (before < seconds(1))
		return false;
	*sent = now();
	if (before > seconds(IDLE_OUTBOUND)) /* it begins anew */
		*answered = 0;
	else if (*answered & NOTE_CHECKED)
		*answered = NOTE_ANSWERED;
	return true;
}

/*
 * Takes what came in for an answer where the host sent by this tuple lately, before anything came in: such a note is
 * worth more than one that nobody answered. Returns whether it did.
 */
static inline bool accept_answer(struct note note)
{
	if (!note.set || age(note.set->sent[note.way]) > seconds(IDLE_OUTBOUND))
		return false;
	if (!note.set->answered[note.way])
		note.set->answered[note.way] = NOTE_ANSWERED;
	return true;
}

/* Whether the note, which nobody answered, is older than the programs on this interface: it proves nothing. */
static inline bool predates_attachment(const struct __sk_buff *skb, struct note note)
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

/* accept_answer() of a datagram, which no socket can be asked about. */
static inline bool accept_datagram_answer(const struct __sk_buff *skb, const struct packet *packet)
{
	struct note note = find_note(packet->digest);

	return !predates_attachment(skb, note) && accept_answer(note);
}

#define OUTDATED (OVER - 1)

/*
 * A free note of the set, else an outdated one, else one that nobody answered, as a scan leaves behind, else the
 * oldest. In memory that the verifier does not follow: see find_mss().
 */
static inline void look_for_note(const struct outbound_set *set, __u32 time, volatile struct vacancy *oldest)
{
	oldest->rank = 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < WAYS; i++) {
		__u32 sent = age_at(set->sent[i], time), rank = sent;

		if (!set->answered[i])
			rank |= EVICT_EARLY;
		if (sent > seconds(IDLE_OUTBOUND))
			rank = OUTDATED;
		if (!set->digest[i])
			rank = OVER;
		if (rank < oldest->rank)
			continue;
		oldest->way = i;
		oldest->digest = set->digest[i];
		oldest->rank = rank;
	}
}

/*
 * Notes that the host is the originator of the scratch packet's tuple, and whether it has been answered. `ifindex`:
 * where the packet came in, 0 for what the host itself sends. What makes room is chosen under the lock: of two CPUs
 * with new tuples of one set, or with the same tuple, each would else overwrite or double what the other has just
 * written. Returns 0.
 */
__noinline int note_outbound(__u32 answered, __u32 ifindex)
{
	struct settings *settings = get_settings();
	struct scratch *from = get_scratch();
	const struct packet *packet;
	struct bpf_spin_lock *lock;
	struct outbound_set *set;
	struct vacancy *vacancy;
	__u32 time = now(), generation;
	enum event reason;
	__u64 digest;
	int way;

	if (!settings || !from)
		return 0;
	packet = &from->packet;
	vacancy = &from->vacancy[0];
	digest = packet->digest;
	set = get_notes(digest);
	lock = get_lock(first_set(digest, sets[TABLE_OUTBOUND]));
	if (!set || !lock)
		return 0;
	generation = *(volatile __u32 *)&settings->generation;
	reason = refusal(ifindex);
	if (reason == EVENT_END && !is_recorded(settings, packet))
		reason = EVENT_IGNORED_PROTOCOL;
	if (is_of_interface(reason) && ifindex)
		mark_foreign_address(packet, ifindex, generation);
	else if (reason != EVENT_END) /* what the host sends may be from an address that has just come */
		mark(MARK_NO_FLOW, digest, generation);
	if (reason != EVENT_END)
		return 0;

	bpf_spin_lock(lock);
	way = find_way(set->digest, digest);
	if (way >= 0) {
		set->answered[way] |= answered;
		bpf_spin_unlock(lock);
		return 0;
	}
	look_for_note(set, time, vacancy);
	way = vacancy->way % WAYS;
	set->sent[way] = time;
	set->answered[way] = answered;
	set->digest[way] = digest;
	bpf_spin_unlock(lock);

	count_event(EVENT_ADMITTED_OUTBOUND);
	if (vacancy->rank < OUTDATED)
		count_event(EVENT_EVICTED_OUTBOUND);
	/* The next answer to what was pushed out is no beginning. A digest does not tell whether it is TCP's. */
	if (vacancy->rank < (EVICT_EARLY | seconds(1)))
		mark(MARK_EVICTED_NOTE, vacancy->digest, generation);
	return 0;
}

/* The same of a packet that leaves, and is not the scratch packet yet. */
static inline void note_that_host_speaks(const struct packet *packet, __u32 ifindex)
{
	if (put_in_scratch(packet))
		note_outbound(false, ifindex);
}

/* Makes the note about the tuple of the scratch packet anew where it was pushed out lately. Returns whether it was. */
static inline bool restore_evicted_note(const struct __sk_buff *skb, const struct packet *packet)
{
	if (likely(!is_marked(MARK_EVICTED_NOTE, packet->digest)))
		return false;
	note_outbound(true, skb->ifindex);
	return true;
}

static inline bool is_grace(void)
{
	__u32 zero = 0, *until = bpf_map_lookup_elem(&grace, &zero);

	return until && is_ahead(*until, now());
}

/* A datagram leaves and no flow is known, so the host speaks first, unless the flow was pushed out a moment ago. */
static inline void host_speaks(const struct __sk_buff *skb, const struct packet *packet)
{
	struct note note = find_note(packet->digest);

	if (likely(note.set))
		refresh_note(note);
	else if (!is_foreign_address(packet, skb->ingress_ifindex) &&
		 !is_marked(MARK_NO_FLOW, packet->digest) && !is_grace() &&
		 !is_marked(MARK_EVICTED_FLOW, packet->digest))
		note_that_host_speaks(packet, skb->ingress_ifindex);
}

/* accept_answer() of a segment without an entry, which keeps the note alive, and once a second shows a way. */
static inline bool accept_segment_answer(struct __sk_buff *skb, const struct packet *packet)
{
	struct note note = find_note(packet->digest);

	if (unlikely(!accept_answer(note)))
		return false;
	refresh_note(note);
	if (unlikely(!(note.set->answered[note.way] & NOTE_CHECKED)) && put_in_scratch(packet) && relate_answer(skb))
		note.set->answered[note.way] |= NOTE_CHECKED;
	return true;
}

/*
 * The host opens a connection: its peer's segments are answers from the first on. `ifindex` is that of note_outbound().
 */
static inline void host_connects(const struct packet *packet, __u32 ifindex)
{
	struct note note = find_note(packet->digest);

	if (!note.set)
		return note_that_host_speaks(packet, ifindex);
	note.set->sent[note.way] = now();
	note.set->answered[note.way] &= ~NOTE_CHECKED;
}

/* The host accepts a connection with this tuple: what it did with it before is past. */
static inline void forget_outbound(__u64 digest)
{
	struct bpf_spin_lock *lock = get_lock(first_set(digest, sets[TABLE_OUTBOUND]));
	struct note note = find_note(digest);

	if (!note.set || !lock)
		return;
	bpf_spin_lock(lock);
	if (note.set->digest[note.way] == digest)
		note.set->digest[note.way] = 0;
	bpf_spin_unlock(lock);
}
