/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps.
 *
 * The flow tables are set-associative: arrays of sets, in which a digest of the
 * tuple picks two sets of eight ways. BPF_MAP_TYPE_LRU_HASH would do the same
 * with less code, but every lookup of it is a chain of function calls, an update
 * of an entry that is there can evict another, and its own headers take 64 bytes
 * an entry. An array's lookup is a multiplication; docs/ARCHITECTURE.md has the
 * figures. There is a table for each kind of entry, so that a flood of one kind
 * cannot push out another. The loader sets their sizes.
 */
#pragma once

#include "types.h"

#define MAX_INTERFACES 4096
#define INTERFACE_INDICES 65536
#define MAX_GATEWAYS 4096
#define MAX_OWN_ADDRESSES 16384
#define MAX_GATEWAY_ROUTES 32768
#define MAX_PAIRS 16384
#define MARKS 16384 /* a power of two */
#define FOREIGN_SETS 32768 /* a power of two */
#define FOREIGN_WAYS 4
#define REPAIR_WANTED_BYTES 65536 /* whole pages everywhere */
#define FRAGMENT_SETS 1024  /* a power of two */
#define SET_LOCKS 1024  /* a power of two */
#define TRACE_BYTES 262144 /* whole pages on any machine, a power of two */
#define PAIR_SLOTS 1024 /* a power of two */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_set);
} half_open SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_set);
} established SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_set);
} connectionless SEC(".maps");

/* For each set of those tables: see tags.h. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} half_open_tags SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} established_tags SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} connectionless_tags SEC(".maps");

/* Tuples in which the host spoke first. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct outbound_set);
} outbound SEC(".maps");

/* By whom, and by which flow, a question came last. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct asked_set);
} asked SEC(".maps");

/* Something in it: a socket was asked that needs the source repair. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, REPAIR_WANTED_BYTES);
} repair_wanted SEC(".maps");

/* enum mode, set by the operator at once; wins over the interfaces'. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} mode_by_hand SEC(".maps");

/*
 * Tuples about which something is known for a minute (negative_cache.h). Whoever comes later
 * overwrites: what was known is then found out again, but for datagrams (see negative_cache.h).
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MARKS);
	__type(key, __u32);
	__type(value, __u64);
} marks SEC(".maps");

/*
 * What begins no flow for a minute (negative_cache.h): by the digest of an address that a
 * router forwards to or from, or of a tuple of the host's that starts nothing, or about
 * which the note that the host spoke first was pushed out. Apart from the marks, which it
 * would overwrite, and with room for tens of thousands. What was marked last comes first
 * in its set.
 */
struct foreign_set {
	__u64 mark[FOREIGN_WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FOREIGN_SETS);
	__type(key, __u32);
	__type(value, struct foreign_set);
} foreign SEC(".maps");

/*
 * Until this tick no datagram of the host's is noted in `outbound`: when the
 * programs have just been attached, or flows were forgotten, it may well answer
 * a question that nobody recorded. Written by user space.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} grace SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SET_LOCKS);
	__type(key, __u32);
	__type(value, struct set_lock);
} set_locks SEC(".maps");

/*
 * The low bits of an ifindex to an index into `interfaces`, whose ifindex tells
 * whether it is the one. An array, as its lookup costs no function call.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, INTERFACE_INDICES);
	__type(key, __u32);
	__type(value, __u32);
} managed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_INTERFACES);
	__type(key, __u32);
	__type(value, struct interface);
} interfaces SEC(".maps");

/*
 * The ifindex behind an index into `interfaces`, for as long as that very device is
 * in this network namespace: the kernel takes an entry out when its device is
 * deleted or moves away (net/core/dev.c, kernel/bpf/devmap.c, NETDEV_UNREGISTER),
 * whether or not the loader lives to see it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, MAX_INTERFACES);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_GATEWAYS);
	__type(key, __u32);
	__type(value, struct gateway);
} gateways SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_GATEWAYS);
	__type(key, struct gateway_mac);
	__type(value, __u32); /* index into `gateways` */
} gateway_macs SEC(".maps");

/*
 * Silent gateways whose neighbour entries are held, to the tick until which that
 * is believed: see unreachable.h.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_GATEWAYS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gateway_mac);
	__type(value, __u32);
} held_gateways SEC(".maps");

/*
 * What is routed by the gateways of an interface, where these do not serve all peers
 * (INTERFACE_ROUTES4, INTERFACE_ROUTES6).
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_GATEWAY_ROUTES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct route_key);
	__type(value, __u32); /* index into `gateways`; 0: which one is not known */
} gateway_routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_OWN_ADDRESSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct on_link_key);
	__type(value, __u32);
} on_link SEC(".maps");

struct address {
	__u8 bytes[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_OWN_ADDRESSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u32); /* enum own_flags */
} own_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EXCLUSION_SETS);
	__type(key, __u32);
	__type(value, struct exclusion_set);
} exclusions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} configuration SEC(".maps");

/*
 * Counters of interface pairs. The slots are found without a function call; the
 * first pair that needs one owns it, and the few that come second are counted in
 * the hash. Readers add both up.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PAIR_SLOTS);
	__type(key, __u32);
	__type(value, struct pair_count);
} pair_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, MAX_PAIRS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pair);
	__type(value, struct pair_count);
} pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EVENT_END);
	__type(key, __u32);
	__type(value, __u64);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct handover);
} handovers SEC(".maps");

/* Packets of which more fragments are to come. Of a full set the first that was noted makes room. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FRAGMENT_SETS);
	__type(key, __u32);
	__type(value, struct fragment_set);
} fragments SEC(".maps");

/* The program that ends a move: see send.h. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sender SEC(".maps");

/* The program that ends what is for nobody: see nobody.h. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} nobody SEC(".maps");

/* For `replypath trace`: see trace.h. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TRACE_BYTES);
} trace_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace_request);
} trace_filter SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace_slot);
} trace_slots SEC(".maps");
