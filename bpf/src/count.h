/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counters: nothing that happens to a packet goes unnamed. */
#pragma once

#include "scratch.h"

/* Whether `replypath trace` looks on, perhaps at other packets. */
static inline bool is_traced(void)
{
	__u32 zero = 0;
	struct trace_request *filter = bpf_map_lookup_elem(&trace_filter, &zero);

	return filter && unlikely(filter->until);
}

/* Counts an event of the present packet, which a trace of it shows. A function: few packets count any. */
__noinline int raise(__u32 event)
{
	__u64 *count = bpf_map_lookup_elem(&events, &event);
	struct scratch *to;

	_Static_assert(EVENT_END <= 64, "a bit for each event");
	if (count)
		*count += 1; /* per CPU, and softirqs do not nest */
	to = is_traced() ? get_scratch() : NULL;
	if (to)
		to->raised |= 1ULL << (event & 63);
	return 0;
}

static inline void count_event(enum event event)
{
	raise(event);
}

/* Not for trace(), which would take it for the next packet's. Sends of other processes may come between. */
static inline void count_untraced(enum event event)
{
	__u32 index = event;
	__u64 *count = bpf_map_lookup_elem(&events, &index);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static inline __u8 protocol_class(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return CLASS_TCP;
	case IPPROTO_UDP:
		return CLASS_UDP;
	case IPPROTO_ICMP:
		return CLASS_ICMP;
	case IPPROTO_ICMPV6:
		return CLASS_ICMPV6;
	case IPPROTO_SCTP:
		return CLASS_SCTP;
	default:
		return CLASS_OTHER;
	}
}
