/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counters: nothing that happens to a packet goes unnamed. */
#pragma once

#include "digest.h"

static __always_inline void count_event(enum event event)
{
	__u32 index = event;
	__u64 *count = bpf_map_lookup_elem(&events, &index);

	if (count)
		*count += 1; /* per CPU, and softirqs do not nest */
}

static __always_inline __u8 protocol_class(__u8 protocol)
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
