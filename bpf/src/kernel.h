/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs take from the kernel: its headers, and the fields that CO-RE finds at load time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Functions are inlined where they are called; but for those that say otherwise, see struct scratch. */
#define inline inline __attribute__((always_inline))

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Lets the next program run. TCX_NEXT is the same number: include/uapi/linux/bpf.h, enum tcx_action_base. */
#define PASS TC_ACT_UNSPEC

/* Read through bpf_skc_to_tcp_sock; CO-RE finds the fields at load time. */
struct tcp_sock {
	__u32 rcv_nxt;
	__u32 rcv_wnd;
	__u32 snd_una;
	__u32 snd_nxt;
	__u32 write_seq;
} __attribute__((preserve_access_index));

/* Of a request for a connection, which a SYN has made: bpf_skc_to_tcp_request_sock. */
struct tcp_request_sock {
	__u32 rcv_isn;
	__u32 snt_isn;
} __attribute__((preserve_access_index));

struct ipv6_pinfo {
	int mcast_oif;
	__u8 pmtudisc : 3; /* before 6.8; a byte since */
} __attribute__((preserve_access_index));

/* The first member of a tcp_sock, two levels down. */
struct inet_sock {
	struct ipv6_pinfo *pinet6;
	__u8 pmtudisc;
	int mc_index;
	unsigned long inet_flags; /* from 6.6 */
	__u8 transparent : 1;     /* before */
} __attribute__((preserve_access_index));

typedef struct {
	int counter;
} __attribute__((preserve_access_index)) atomic_t;

/* What stands behind the packet data, for all sk_buffs that share it. */
struct skb_shared_info {
	atomic_t dataref; /* how many do; in the upper half, how many of them without the headers */
} __attribute__((preserve_access_index));

/* What __sk_buff does not show, among that whether another sk_buff shares the packet data. */
struct sk_buff {
	__u8 cloned : 1;
	__u16 hdr_len; /* of a clone: the bytes from `head` on that were not in use when it was made */
	unsigned int end; /* of the data, from `head` on */
	unsigned int len;
	unsigned int data_len; /* of `len`, what is not in the linear part */
	unsigned char *head;
	unsigned char *data;
} __attribute__((preserve_access_index));

struct net_device {
	unsigned int flags;  /* IFF_* */
	unsigned long state; /* a bit for each enum netdev_state_t */
	__u8 operstate;      /* IF_OPER_*; four bytes in newer kernels */
	atomic_t carrier_down_count;
} __attribute__((preserve_access_index));

/* An entry of a devmap: what a lookup shows is the address of its value (kernel/bpf/devmap.c). */
struct bpf_dtab_netdev {
	struct net_device *dev;
	struct bpf_devmap_val val;
} __attribute__((preserve_access_index));

enum netdev_state_t {
	__LINK_STATE_NOCARRIER,
};

/* From linux/if.h, which wants a C library. */
#define IFF_UP 1
#define IF_OPER_UNKNOWN 0
#define IF_OPER_LOWERLAYERDOWN 3 /* from 1 on the states in which nothing can be sent, the last of them */

extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak; /* 6.2, as the next one */
extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym __weak;

/* Set by the loader before the programs are loaded, constant from then on. */
volatile const __u32 hertz = 250;           /* CONFIG_HZ of the running kernel */
volatile const bool have_check_mtu = false; /* bpf_check_mtu, from 5.12 */
volatile const bool have_kernel_skb = false; /* bpf_cast_to_kern_ctx and bpf_rdonly_cast, from 6.2 */
volatile const bool have_probe_read = false; /* bpf_probe_read_kernel; not in a kernel locked down */
volatile const bool have_tail_calls = false; /* beside functions: arm64 from 6.0 */
volatile const bool orders_stores = true;    /* this CPU's stores are seen in their order: not arm64's */
volatile const __u32 last_bucket = 1;        /* their number, a power of two, less one: see table.h */
volatile const __u64 digest_seed[10] = {};  /* secret; see tuple.h */
volatile const __u64 own_namespace = 0;     /* the cookie of the network namespace; see source_repair.h */
