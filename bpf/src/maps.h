/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps: docs/design/flow-tables.md. The loader sets the sizes of the LRU hashes. */
#pragma once

#include "types.h"

#define MAX_INTERFACES 4096
#define INTERFACE_PLACES 65536
#define MAX_GATEWAYS 4096
#define MAX_CPUS 1024 /* a power of two */
#define SELVES 64 /* a power of two */
#define BUCKET_LOCKS 1024 /* a power of two */
#define RECENT 4096 /* a power of two */
#define PAIR_SLOT_BITS 9
#define PAIR_SLOTS (1 << PAIR_SLOT_BITS)

#define MAP(name, kind, entries, flags, from, to)                                                  \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_##kind);                                                 \
		__uint(max_entries, entries);                                                      \
		__uint(map_flags, flags);                                                          \
		__type(key, from);                                                                 \
		__type(value, to);                                                                 \
	} name SEC(".maps")

#define ARRAY(name, entries, to) MAP(name, ARRAY, entries, 0, __u32, to)

/*
 * The table of all that is known of tuples: see table.h. The cell with a place's index has the rest. The loader sets both sizes.
 * What is mapped begins at a line of memory.
 */
MAP(buckets, ARRAY, 2, BPF_F_MMAPABLE, __u32, struct bucket);
MAP(cells, ARRAY, 2 * PLACES, BPF_F_MMAPABLE, __u32, struct flow);
ARRAY(bucket_locks, BUCKET_LOCKS, struct bucket_lock);

/* By addresses: digests of the connections that began last, and behind them of questions: see originate.h. */
MAP(recent, ARRAY, 2 * RECENT, BPF_F_MMAPABLE, __u32, __u64);

/* To the flow of what does not show its tuple: see portless.h. */
MAP(leads, LRU_HASH, 32768, 0, __u64, struct lead);

/* By which way replies through a sender were seen to arrive: see handshake.h. */
MAP(ways, LRU_HASH, 16384, 0, struct sender, struct learnt);
MAP(begun_by, LRU_HASH, 1024, 0, struct sender, struct begun);

/* By the low bits of an ifindex: the entry's says whether it is the one. The last, of none, takes what any does. */
ARRAY(interfaces, INTERFACE_PLACES + 1, struct interface);

/* Id to ifindex. The kernel takes an entry out with its device (kernel/bpf/devmap.c, dev_map_notification()). */
MAP(devices, DEVMAP, MAX_INTERFACES, 0, __u32, __u32);

ARRAY(gateways, MAX_GATEWAYS, struct gateway);

/* See enum prefix_kind. */
MAP(prefixes, LPM_TRIE, 90112, BPF_F_NO_PREALLOC, struct prefix_key, __u32);

/* To enum own_flags, and the id of an interface. */
MAP(own_addresses, HASH, 16384, BPF_F_NO_PREALLOC, __u8[16], __u32);

/* See find_slot(). The loader gives each CPU its slots. Of a pair, readers add up both maps. */
MAP(pair_slots, ARRAY, PAIR_SLOTS, BPF_F_MMAPABLE, __u32, struct pair_slot);
MAP(pairs, PERCPU_HASH, 16384, BPF_F_NO_PREALLOC, struct pair, struct pair_count);

MAP(events, PERCPU_ARRAY, EVENT_END, 0, __u32, __u64);

/* The programs that the egress programs call, by enum tail. */
MAP(tails, PROG_ARRAY, TAIL_END, 0, __u32, __u32);

/* For `replypath trace`: see trace.h. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 262144); /* bytes: whole pages on any machine, a power of two */
} trace_events SEC(".maps");

/*
 * What user space tells in memory that it shares with the programs: one map, in this order, of which each process writes
 * its own part. All have a value, as only then they stand in this order.
 */
#define CONTROL SEC(".data.control")

/* enum mode, set by the operator at once; wins over the interfaces'. It is the first in every layout, which it outlives. */
__u32 mode_by_hand CONTROL = MODE_CONFIGURED;

/* What the host sent until this tick proves nothing: see is_proof(), docs/design/flow-tables.md. */
__u32 grace CONTROL = 0;

struct trace_request trace_filter CONTROL = {};

struct settings configuration CONTROL = {};
