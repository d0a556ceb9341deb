/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Marks of tuples. A TCP tuple is marked when it proved to be no flow (forwarded,
 * or without a socket), so that its segments cost little. Any other is marked
 * when its flow was pushed out of a full table, so that the answer to the last
 * question does not pass for a beginning. Datagrams that are not for us, nor from us,
 * are remembered in a place of their own. A mark lasts for the rest of its period
 * and the next one, of 1024 ticks each (16 s at 1000 Hz, 65 s at 250 Hz), unless
 * what admission asks changes.
 */
#pragma once

#include "flow.h"
#include "settings.h"

static __always_inline __u64 *mark_slot(__u64 digest)
{
	__u32 index = (digest >> 1) % MARKS; /* the lowest bit is always set */

	return bpf_map_lookup_elem(&marks, &index);
}

static __always_inline __u32 period(void)
{
	return now() >> 10;
}

static __always_inline __u32 generation(void)
{
	struct settings *settings = get_settings();

	return settings ? settings->generation : 0;
}

/* The digest as it is marked now. */
static __always_inline __u64 mark_of(__u64 digest)
{
	return digest ^ (__u64)period() << 32 ^ generation();
}

/* Whether a slot marks the digest, in this period or since the one before. */
static __always_inline bool is_mark_of(const __u64 *slot, __u64 digest)
{
	__u64 when = slot ? *slot ^ digest : 0;

	return slot && (__u32)when == generation() && period() - (__u32)(when >> 32) <= 1;
}

static __always_inline void mark(__u64 digest)
{
	__u64 *slot = mark_slot(digest);

	if (slot)
		*slot = mark_of(digest);
}

static __always_inline void unmark(__u64 digest)
{
	__u64 *slot = mark_slot(digest);

	if (is_mark_of(slot, digest))
		*slot = 0;
}

static __always_inline bool is_marked(__u64 digest)
{
	return is_mark_of(mark_slot(digest), digest);
}

static __always_inline __u64 *foreign_slot(__u64 digest)
{
	__u32 index = (digest >> 1) % FOREIGN;

	return bpf_map_lookup_elem(&foreign, &index);
}

static __always_inline void mark_foreign(__u64 digest)
{
	__u64 *slot = foreign_slot(digest);

	if (slot)
		*slot = mark_of(digest);
}

static __always_inline bool is_foreign(__u64 digest)
{
	return is_mark_of(foreign_slot(digest), digest);
}
