/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Asking memory in time: what a new connection needs is in no cache. */
#pragma once

#include "table.h"

/* Has memory bring what will be read or written soon; several of these take as long as one. */
static inline void fetch(const void *address)
{
	if (address)
		(void)*(const volatile __u64 *)address;
}

/* Where an entry of this digest would go if its preferred way is free: two cache lines or three. */
static inline void fetch_vacancy(__u64 digest, enum table table)
{
	const struct flow_set *set = get_set(table, first_set(digest, set_count(table)));
	const struct flow *flow;

	if (!set)
		return;
	flow = &set->flow[preferred_way(digest)];
	fetch(set->digest);
	fetch(&flow->tuple);
	fetch(&flow->ifindex);
	fetch(&flow->snd_nxt);
}
