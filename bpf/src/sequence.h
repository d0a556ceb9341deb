/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP sequence numbers, in host order. */
#pragma once

#include "parse.h"

/* The first segment of a connection. */
static inline bool is_syn(const struct packet *packet)
{
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* The number after the segment's last byte; a FIN counts as one (RFC 9293, 3.4). */
static inline __u32 segment_end(const struct packet *packet)
{
	return packet->seq + packet->payload + !!(packet->tcp_flags & TCP_FIN);
}

/* Whether `low` <= `value` <= `high` in sequence space (RFC 9293, 3.4). */
static inline bool in_sequence(__u32 value, __u32 low, __u32 high)
{
	return value - low <= high - low;
}
