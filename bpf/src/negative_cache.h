/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The negative cache: marks of tuples that are no flow (docs/design/flow-tables.md). One lasts two minutes. */
#pragma once

#include "table.h"

/* By what a mark is known: of another generation by something else, so that a new one makes all void. */
static inline __u64 mark_digest(__u64 digest, __u32 generation)
{
	return digest ^ (__u64)(generation * (__u32)DIGEST_MULTIPLIER) << 32;
}

static inline bool is_marked(__u64 digest)
{
	__u32 place = find_place(mark_digest(digest, configuration.generation), 1 << KIND_MARK);
	const struct bucket *bucket = get_bucket(place / PLACES);

	return bucket && is_live(bucket->place[place & (PLACES - 1)], stamp_now());
}

/* The generation is that of before what is marked was found out: what changed meanwhile makes the mark void. */
static __noinline void put_mark(__u64 digest, __u32 generation)
{
	__u64 key = mark_digest(digest, generation);

	if (find_place(key, 1 << KIND_MARK) < 0)
		put_flow(key, KIND_MARK, 1 << KIND_MARK);
	else
		renew_place(key, 1 << KIND_MARK);
}

static inline void clear_mark(__u64 digest)
{
	forget(mark_digest(digest, configuration.generation), 1 << KIND_MARK);
}
