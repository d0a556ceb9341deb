/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tuples in which the host spoke first (docs/design/flow-tables.md). Of TCP a note only spares the question to the
 * socket, which knows who opened the connection.
 */
#pragma once

#include "admission.h"
#include "originate.h"

/*
 * The note, if either side has used the tuple within an hour. Its memory may become another's: what is written there
 * later is the present time, and does no harm.
 */
static inline struct note *find_note(__u64 digest)
{
	struct note *note = (struct note *)get_cell(find_place(digest, 1 << KIND_NOTE));

	_Static_assert(offsetof(struct note, sent) == offsetof(struct flow, seen), "a time for a time");
	_Static_assert(offsetof(struct note, heard) == offsetof(struct flow, created), "a time for a time");
	if (!note || note->digest != digest || (age(note->sent) > seconds(IDLE_OUTBOUND) &&
		      (!note->heard || age(note->heard) > seconds(IDLE_OUTBOUND))))
		return NULL;
	return note;
}

/* Whether an answer came within this second: there is nothing to be learnt from another. */
static inline bool was_just_heard(const struct note *note)
{
	return note->heard && age(note->heard) < seconds(1);
}

/* Whether the note proves that the host spoke first: it spoke after the grace, or an answer came before. */
static inline bool is_proof(const struct note *note)
{
	__u32 time = now();

	return note->heard || age_at(note->sent, time) < age_at(grace, time);
}

/* Notes that the host spoke first by the scratch packet's tuple, or by what else has this digest; false without room. */
static inline bool enter_note(__u64 digest, __u32 heard)
{
	*(struct note *)&get_scratch()->flow = (struct note){ .digest = digest, .sent = now(), .heard = heard };
	return put_flow(digest, KIND_NOTE, 1 << KIND_NOTE);
}

static inline void renew_note(struct note *note)
{
	note->sent = now();
	renew_place(note->digest, 1 << KIND_NOTE);
}

/* `ifindex`: where the scratch packet came in, 0 for what the host itself sends. */
__noinline int note_outbound(__u32 ifindex)
{
	struct scratch *scratch = get_scratch();
	__u32 generation = *(volatile __u32 *)&configuration.generation;
	enum event reason = refusal(ifindex);

	if (is_of_interface(reason) && ifindex)
		return 0;
	if (reason != EVENT_END) /* what the host sends may be from an address that has just come */
		put_mark(scratch->packet.digest, generation);
	else if (enter_note(scratch->packet.digest, 0))
		count_event(EVENT_ADMITTED_OUTBOUND);
	return 0;
}

/* The same of a packet that leaves, and is not the scratch packet yet: a SYN, or the first datagram. */
static inline void host_begins(const struct packet *packet, __u32 ifindex)
{
	put_in_scratch(packet);
	note_outbound(ifindex);
}

/* A datagram leaves and no flow is known, so the host speaks first. */
static inline void host_speaks(const struct __sk_buff *skb, const struct packet *packet)
{
	struct note *note = find_note(packet->digest);

	if (unlikely(!note)) {
		if (!is_marked(packet->digest) &&
		    !(skb->ingress_ifindex && is_of_interface(refusal_of_self(packet, skb->ingress_ifindex))))
			host_begins(packet, skb->ingress_ifindex);
	} else if (age(note->sent) >= seconds(1)) { /* no more often, so that the cache line stays shared */
		renew_note(note);
	}
}

/* Whether a segment without an entry answers what the host opened. Once a second it shows a path. */
static inline bool answers_host(struct __sk_buff *skb, const struct packet *packet)
{
	struct note *note = find_note(packet->digest);

	if (unlikely(!note))
		return false;
	if (likely(was_just_heard(note)))
		return true;
	put_in_scratch(packet);
	if (relate_answer(skb)) {
		note->heard = now();
		renew_place(packet->digest, 1 << KIND_NOTE);
	}
	return true;
}
