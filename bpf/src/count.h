/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counters: nothing that happens to a packet goes unnamed. */
#pragma once

#include "scratch.h"

/* In ticks. */
static inline __u32 now(void)
{
	return bpf_jiffies64() / JIFFIES_PER_TICK;
}

/* Whether `replypath trace` looks on, perhaps at other packets. */
static inline bool is_traced(void)
{
	return unlikely(trace_filter.until);
}

/* Not for trace(), which would take it for the next packet's. Sends of other processes may come between. */
static inline void count_untraced(__u32 event)
{
	__u64 *count = bpf_map_lookup_elem(&events, &event);

	if (count)
		__sync_fetch_and_add(count, 1);
}

/* Counts an event of the present packet, which a trace of it shows. A function: few packets count any. */
__noinline int raise(__u32 event)
{
	_Static_assert(EVENT_END <= 64, "a bit for each event");
	count_untraced(event);
	if (is_traced())
		get_scratch()->raised |= 1ULL << (event & 63);
	return 0;
}

static inline void count_event(enum event event)
{
	raise(event);
}

static inline __u8 protocol_class(__u8 protocol)
{
	return protocol == IPPROTO_TCP ? CLASS_TCP :
	       protocol == IPPROTO_UDP ? CLASS_UDP :
	       protocol == IPPROTO_ICMP ? CLASS_ICMP :
	       protocol == IPPROTO_ICMPV6 ? CLASS_ICMPV6 :
	       protocol == IPPROTO_SCTP ? CLASS_SCTP : CLASS_OTHER;
}

/* Segments that the packet becomes on the wire. Virtual machines may not say how many (kernel: SKB_GSO_DODGY). */
static inline __u32 wire_packets(const struct __sk_buff *skb, const struct packet *packet)
{
	__u32 segments = skb->gso_segs;

	if (likely(!skb->gso_size))
		return 1;
	return segments ? segments : (packet->payload + skb->gso_size - 1) / skb->gso_size;
}

/* A struct pair as one number: stored byte by byte, it could not be read before all of them are in the cache. */
static inline __u64 pair_of(__u16 from, __u16 to, const struct packet *packet)
{
	struct pair pair = { from, to, packet->family, protocol_class(packet->protocol), 0, 0 };

	return *(__u64 *)&pair;
}

static inline __u16 target_of(__u64 pair)
{
	return ((struct pair *)&pair)->to;
}

static inline __u64 with_outcome(__u64 pair, enum outcome outcome)
{
	((struct pair *)&pair)->outcome |= outcome;
	return pair;
}

/* Enters a pair. Another CPU may be first: only the lookup tells. Returns 0. */
__noinline int enter_pair(__u64 pair)
{
	struct pair_count zero = {};

	if (bpf_map_update_elem(&pairs, &pair, &zero, BPF_NOEXIST) && !bpf_map_lookup_elem(&pairs, &pair))
		count_untraced(EVENT_INSERT_FAILED_COUNTER);
	return 0;
}

/* The counters of a pair, which has an outcome; NULL where there is no room. */
static inline struct pair_count *find_pair(__u64 pair)
{
	struct pair_count *count = bpf_map_lookup_elem(&pairs, &pair);

	_Static_assert(sizeof(struct pair) == sizeof(pair), "a pair is one number");
	if (likely(count))
		return count;
	enter_pair(pair);
	return bpf_map_lookup_elem(&pairs, &pair);
}

/*
 * The same for what is counted by the packet, mostly without a look into the hash. A slot is the first pair's that
 * finds it free, until user space forgets the pair.
 */
static inline struct pair_count *find_slot(__u64 pair)
{
	__u32 place = bpf_get_smp_processor_id() * PAIR_SLOTS + (pair * DIGEST_MULTIPLIER >> (64 - PAIR_SLOT_BITS));
	struct pair_slot *slot = bpf_map_lookup_elem(&pair_slots, &place);
	__u64 *owner = (__u64 *)slot; /* with which it begins */

	if (unlikely(!slot))
		return find_pair(pair);
	if (unlikely(!*owner)) {
		slot->count = (struct pair_count){}; /* another pair may have been counted while user space forgot it */
		*owner = pair;
	}
	return likely(*owner == pair) ? &slot->count : find_pair(pair);
}

/* Counts the packet of which that became, so many on the wire. */
static inline void count_pair(struct __sk_buff *skb, __u64 pair, enum outcome outcome, __u32 packets, bool first_of_flow)
{
	struct pair_count *count = find_slot(with_outcome(pair, outcome));

	if (!count)
		return;
	if (outcome != OUTCOME_CORRECTED)
		count->last = now();
	count->packets += packets;
	/* Each segment with its headers: qdisc_pkt_len_init() has set it by the time that egress programs run. */
	count->bytes += skb->wire_len ? skb->wire_len : skb->len;
	if (first_of_flow)
		count->flows++;
}
