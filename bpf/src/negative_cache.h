/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The negative cache: marks of the digests of tuples that are no flow (docs/design/flow-tables.md). */
#pragma once

#include "flow.h"

static inline __u64 *get_mark(__u64 digest)
{
	__u32 index = (digest >> 1) % MARKS; /* digests are odd */

	return bpf_map_lookup_elem(&marks, &index);
}

static inline __u32 period(void)
{
	return now() >> 10;
}

static inline bool is_marked(__u64 digest)
{
	const __u64 *mark = get_mark(digest);
	__u64 when = mark ? *mark ^ digest : 0;

	return mark && (__u32)when == configuration.generation && period() - (__u32)(when >> 32) <= 1;
}

/* The generation is that of before what is marked was found out: what changed meanwhile makes the mark void. */
static inline void put_mark(__u64 digest, __u32 generation)
{
	__u64 *mark = get_mark(digest), fresh = digest ^ (__u64)period() << 32 ^ generation;

	if (mark && *mark != fresh) /* else left alone: others read it at this moment */
		*mark = fresh;
}

static inline void clear_mark(__u64 digest)
{
	__u64 *mark = get_mark(digest);

	if (mark && *mark) /* perhaps another's, which is asked about once more */
		*mark = 0;
}
