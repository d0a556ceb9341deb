/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packet, and what the programs work out about it, in memory that takes no stack. */
#pragma once

#include "tuple.h"

struct packet {
	struct tuple tuple;
	__u64 digest;   /* of the tuple */
	__u8 mac[6];    /* the other end's: source at ingress, destination at egress */
	__u8 family;    /* 4 or 6 */
	__u8 protocol;  /* IPPROTO_*, as in the tuple */
	__u8 tcp_flags; /* the 14th byte of the header */
	__u8 outcome;   /* enum outcome, of what leaves; 0: nothing was to be done */
	bool echo_request;
	bool echo_reply;
	__u32 payload;  /* bytes after the transport header, of TCP and UDP */
	/* Up to here, a tracer is told of it. */
	__u32 seq;      /* host order */
	__u32 ack;      /* host order */
	__u32 offset;   /* of the transport header, from the start of the frame; 0: there is none */
	__u32 length;   /* from there to the end of the IP packet */
	__u32 identification; /* of a packet that comes in fragments; of IPv4 with the protocol */
	bool fragment; /* the first one */
	__u8 settled;  /* enum outcome that is known before, of the first fragment or of the source; 0: none */
};

/*
 * What an ICMP error quotes: IPv4 options or some extension headers fit in, and of the transport header what the kernel
 * leaves when it shortens a packet whose checksum is still to be filled in.
 */
#define QUOTE 128
#define QUOTED_TRANSPORT 20

#define TCP_HEADER 20 /* without options */

/* An ICMP error, or with a TCP header from `type` on, a RST: what a program sends back to the sender of a packet. */
struct rejection {
	__u8 ip[40]; /* the IPv6 header; IPv4's is the last 20 bytes */
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 mtu; /* too large: RFC 1191, 4 (16 unused bits and 16 of it); RFC 4443, 3.2; else 0 */
	__u8 quote[QUOTE];
};

#define ERROR_HEADER (offsetof(struct rejection, quote) - offsetof(struct rejection, type))

/* An own address of packets, and what it is to the host, as long as the generation is this one. */
struct known_self {
	__u64 self[2];
	__u64 generation; /* of routing, above that of admission */
	__u32 own;     /* enum own_flags, of the address or of the prefix that is served; 0: nothing of it is ours */
	__u32 ifindex; /* of the interface that has it alone; 0 for none */
	__u32 lower;   /* as of the interface */
	bool counted;  /* that something came in for it which is not ours */
};

/* Where a flow is put: see put_flow(). */
struct put {
	__u32 changes; /* of the lock's */
	__u32 place;   /* that the tuple gets */
	bool hidden;   /* while it is written: it has another path than what was there */
};

/*
 * What global functions, all that are not static, work on (docs/design/flow-tables.md, "Verifier"). The verifier does
 * not follow what is kept here. One for each CPU, as softirqs do not nest.
 */
struct scratch {
	struct handover handover;
	struct packet packet;
	struct flow flow;
	struct put put;
	struct path path;
	struct sender sender; /* of it */
	struct record record; /* of what the host originates; where the table has no room, the only one */
	__u64 header[5]; /* the longest is IPv6's */
	__u32 option; /* of a TCP header: where the next one stands; see mtu.h */
	struct rejection rejection;
	__u64 socket; /* an address in the kernel */
	bool socket_is_closing; /* of the socket that was asked last: it has sent its FIN */
	__u32 socket_snd_nxt; /* and what it sends next; what was acknowledged, where none has the connection */
	struct known_self selves[SELVES]; /* by own address: see admission.h */
	__u64 raised; /* while somebody traces: a bit for each enum event that the packet raised */
} __attribute__((aligned(128))); /* no cache line is of two CPUs, nor one that is fetched with it */

static struct scratch cpus[MAX_CPUS];

static inline struct scratch *get_scratch(void)
{
	return &cpus[bpf_get_smp_processor_id() % MAX_CPUS];
}

static inline struct packet *scratch_packet(void)
{
	return &get_scratch()->packet;
}

static inline void put_in_scratch(const struct packet *packet)
{
	*scratch_packet() = *packet;
}
