/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the maps hold. The Go side gets these types from bpf2go: change them here only, and raise LAYOUT_VERSION when
 * the meaning or size of one changes, other than of what only a tracer is told.
 */
#pragma once

#include "kernel.h"

/* Pinned beside the maps; those of another layout are replaced. */
enum layout {
	LAYOUT_VERSION = 26,
};

/*
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), so that one map serves both
 * families. Frames that carry such an address in an IPv6 header are never recorded.
 */
struct tuple {
	__u8 peer[16];
	__u8 self[16];
	__be16 peer_port; /* echo: the identifier; 0 without ports */
	__be16 self_port; /* 0 for echo and without ports */
	__u8 protocol;    /* IPPROTO_* */
	__u8 pad[3];
} __attribute__((aligned(8)));

/*
 * Written at ingress, so that no bit is lost to a reply on another CPU, except where what leaves changes the way, while
 * handshakes try ways (handshake.h).
 */
enum flow_flags {
	FLOW_NEXT_HOP_GATEWAY = 1 << 0, /* send to the gateway's MAC; see next_hop_mac() where it is not known */
	FLOW_ENFORCE_MAC = 1 << 1,      /* set the MAC on the flow's own interface as well */
	FLOW_ACTIVE = 1 << 2,           /* a frame came in since `seen` was written, by the path of the flow */
	FLOW_RESET = 1 << 3,            /* the peer's RST was plausible: idle soon */
	FLOW_NO_SOCKET = 1 << 4,        /* established: the entry keeps sequence numbers; else see is_untaken() */
	FLOW_ALTERNATES = 1 << 5,       /* its peer asks other own addresses by these ports too; see source_repair.h */
	FLOW_STRAY = 1 << 6,            /* half-open: no flow; for the RST that answers it */
	FLOW_ON_LINK = 1 << 7,          /* of originate.h: the next hop is the peer, whose MAC the kernel finds */
	FLOW_ASSURED = 1 << 8,          /* connectionless: a conversation, as a question came after an answer */
	/* The way of the replies: see handshake.h. Neither: by the rule, as choose_next_hop() has it. */
	FLOW_LAST_HOP = 1 << 9,   /* to the MAC of the inbound frames */
	FLOW_AS_ROUTED = 1 << 10, /* as the kernel sends them */
	FLOW_WAY = FLOW_LAST_HOP | FLOW_AS_ROUTED,
	FLOW_HOP = FLOW_WAY | FLOW_NEXT_HOP_GATEWAY | FLOW_ENFORCE_MAC | FLOW_ON_LINK, /* what says where to */
	FLOW_ON_TRIAL = 1 << 11,  /* established: whether replies arrive by its way is not known */
	FLOW_CROWDED = 1 << 13,   /* connectionless: no room for another conversation; asked again in a second */
	FLOW_SETTLED = 1 << 12,   /* half-open: its way is settled, and was heard of just now */
};

/* Written at egress, and at ingress where a flow begins anew, moves, or turns out not to close. */
enum flow_state {
	FLOW_CLOSING = 1 << 0,    /* we sent FIN or RST: idle soon */
	FLOW_REPLIED = 1 << 1,    /* we answered; half-open: snd_una and snd_nxt are known */
	FLOW_ASYMMETRIC = 1 << 2, /* counted as an asymmetric flow */
	FLOW_CORRECTED = 1 << 3,  /* counted as a corrected flow */
};

/* 32 bits of ticks last two years at 1000 Hz, where jiffies would turn over within 50 days. */
enum tick {
	JIFFIES_PER_TICK = 16,
	TICKS_AHEAD = 1 << 16, /* a time is at most so far in the future: 17 minutes at 1000 Hz */
	LEFT_TICKS = 16,       /* so exactly it is known when a packet of a flow left, so that few of them write */
};

/*
 * After so many seconds without a frame that keeps it an entry counts as none. TCP's limit is long because a replication
 * link may be silent for hours; those of ends and echoes are conntrack's (net/netfilter: tcp_timeout_time_wait,
 * icmp_timeout). SYN-ACKs are sent again for 63 s (tcp_synack_retries = 5).
 */
enum idle_seconds {
	IDLE_ESTABLISHED = 86400,
	IDLE_CLOSING = 120,
	IDLE_UNANSWERED = 1000, /* closing, for what we send again: for 924 s (tcp_retries2 = 15) */
	IDLE_HALF_OPEN = 120,
	IDLE_CONNECTIONLESS = 180,
	IDLE_ECHO = 30,
	IDLE_QUESTION = 10, /* for another socket that answers: it does so soon, and is acknowledged (RFC 1350, 4) */
	IDLE_FRAGMENT = 2,    /* the fragments of a packet follow one another */
	IDLE_OUTBOUND = 3600, /* that the host spoke first: NTP asks every 1024 s at most */
	IDLE_SENDER = 86400,  /* what was learnt of one that began nothing */
	IDLE_CALL = 900,      /* what the host opens to a peer goes as its connection went that has ended */
	IDLE_DECISION = 60,   /* of originate.h: so that a generation does not come again meanwhile */
};

/* Where a flow came in, by the digest of its tuple. What every packet needs comes first. */
struct flow {
	struct tuple tuple;
	__u32 seen;      /* ticks: the last inbound frame, our FIN or RST; of a flow that goes on, once a second */
	__u8 state;      /* enum flow_state */
	__u8 rival_frames; /* connectionless: how many came by the path of `rival`, up to RIVAL_FRAMES */
	__u16 size_told; /* low bits of ticks: the sender was told of a packet that is too large */
	__u32 ifindex;
	__u16 interface; /* its id */
	__u16 gateway;   /* index into `gateways`; 0: none known */
	__u8 mac[6];     /* source of the inbound frames */
	__u16 flags;     /* enum flow_flags */
	__u64 corrected; /* packets seen leaving by `ifindex` after we moved them */
	__u32 created;   /* ticks */
	__u32 left;      /* when our last packet left, in ticks, to LEFT_TICKS, and enum outcome; 0: none was seen leaving */
	/* Sequence numbers (RFC 9293, 3.3.1), host order. What has no connection keeps other things there. */
	union {
		__u32 snd_una; /* half-open: of our SYN-ACK; else what the peer acknowledged last */
		__u32 spoke;   /* connectionless: ticks, when we sent last while the peer was silent; 0: long ago */
	};
	union {
		__u32 snd_nxt; /* the highest that we sent, plus one */
		__u32 rival;   /* connectionless: the number of the other path by which frames come, see follow.h; 0: none */
	};
	union {
		__u32 rcv_nxt; /* half-open: what acknowledges the peer's SYN; else what we acknowledged last */
		__u32 rival_since; /* connectionless: ticks, when the first of them came */
	};
	__u16 sent;   /* half-open, or on trial: low bits of ticks, when our last SYN-ACK left, or what is new by this way */
	__u8 attempt; /* enum attempt */
};

/* What became of a handshake's SYN-ACKs. */
enum attempt {
	ATTEMPT_SENT = 1 << 0,   /* one has left; on trial: an ACK of what the peer sent has */
	ATTEMPT_CHOICE = 1 << 1, /* the ways differ: there is something to be learnt */
	ATTEMPT_AGAIN = 1 << 2,  /* they left by several ways, or may have */
	ATTEMPT_ASTRAY = 1 << 3, /* one could not go by its way: nothing is learnt */
	ATTEMPT_UNHEARD = 1 << 4, /* on trial: the peer sends again what was acknowledged */
	ATTEMPT_FIRST = 1 << 5,  /* on trial: no data have left by this path */
	ATTEMPT_REFUSED = 1 << 6, /* as routed they were answered by a RST: that way is not tried again */
};

/* Who hands us what is for an own address: see docs/design/ways.md. */
struct sender {
	__u8 mac[6];
	__u16 interface; /* id */
	__u8 self[16];   /* as the peer asked it, before DNAT */
	__u16 gateway;   /* the rule's: index into `gateways`, 0 for none, or ON_LINK_HOP */
};

/* By which way handshakes through a sender were completed, and what has to be the same for that to hold. */
struct learnt {
	__u32 since;     /* ticks */
	__u32 heard;     /* ticks, to half a minute: the last handshake that it completed, or datagrams that began */
	__u32 tried;     /* ticks: when a handshake began by the rule's way, though another was learnt */
	__u16 way;       /* of FLOW_WAY */
	__u16 downs;     /* low bits of how often the link went down */
	__u8 gateway[6]; /* MAC of the rule's gateway; zeros: there was none */
	__u8 settled;    /* the rule's way is not tried any more */
	__u8 proven;     /* it completed a handshake alone, or brought data; or another way than the rule's did before */
	__u8 tries;      /* how often `tried` was written */
};

/* By which way handshakes through a sender begin of whom nothing is known. */
struct begun {
	__u32 sent; /* ticks: the first SYN-ACK by this way */
	__u16 way;  /* of FLOW_WAY */
};

/* The two words of a flow that say by which path it came. */
struct path {
	__u32 ifindex;
	__u16 interface;
	__u16 gateway;
	__u8 mac[6];
	__u16 flags;
} __attribute__((aligned(8)));

/* Of a tuple whose originator is the host, to a second; and of a peer that answered, see source_repair.h. */
struct note {
	__u64 digest;
	__u64 pad[4];
	__u32 sent;  /* ticks: the SYN, or the host's last datagram. Where a flow has `seen`: its cell may be one meanwhile */
	__u32 pads[7];
	__u32 heard; /* ticks: the last answer; 0: none came. Where a flow has `created` */
};

enum next_hop_mode {
	NEXT_HOP_AUTO = 0,
	NEXT_HOP_GATEWAY = 1,
	NEXT_HOP_LAST = 2,
	NEXT_HOP_TOLD = 3, /* auto, by gateways of the configuration: nothing is learnt */
};

enum mode {
	MODE_CONFIGURED = 0, /* by hand: every interface's own; of one: it is caught, and not managed */
	MODE_ENFORCE = 1,
	MODE_OBSERVE = 2,
};

enum interface_flags {
	INTERFACE_UP = 1 << 0,        /* administratively up and with carrier */
	INTERFACE_NO_HEADER = 1 << 1, /* frames start with the IP header (tun, WireGuard) */
	INTERFACE_NARROW = 1 << 2,    /* another managed interface has a larger MTU */
	INTERFACE_ROUTES4 = 1 << 3,   /* PREFIX_ROUTED tells which IPv4 peers its gateways serve; else all */
	INTERFACE_ROUTES6 = 1 << 4,
	INTERFACE_STRONG = 1 << 5,    /* host_model: strong */
	INTERFACE_UNSEEN = 1 << 6,    /* our program may not be there yet to see what leaves */
	INTERFACE_STRICT = 1 << 7,    /* rp_filter is strict */
};

/* What starts flows by an interface, beside requests for this host's own addresses. */
enum takes {
	TAKES_ITS_OWN_ONLY = 1 << 0, /* less: only for addresses that it has, and no other (a tunnel that nobody named) */
	TAKES_ALL4 = 1 << 1, /* it forwards no IPv4: what is addressed to us ends here, though no interface has the address */
	TAKES_ALL6 = 1 << 2,
};

/* One life of an interface that is managed or caught (docs/design/flow-tables.md, "Interface ids"). */
struct interface {
	__u32 ifindex; /* 0: there is none */
	__u32 mtu;
	__u8 mac[6];
	__u8 flags;      /* enum interface_flags */
	__u8 next_hop;   /* enum next_hop_mode */
	__u8 mode;       /* enum mode; what is caught has the egress program alone */
	__u8 gateways4;  /* 1: there is one gateway; more: a frame's MAC tells which */
	__u8 gateways6;
	__u8 takes;      /* enum takes */
	__u16 gateway4; /* index of the only one; 0 with none or several */
	__u16 gateway6;
	__u32 vrf;   /* ifindex of the VRF device that it is a port of; 0 for none */
	__u32 lower; /* ifindex of the device that its frames pass as well (macvlan, ipvlan); 0 for none */
	__u16 first_gateway4; /* index of the one that is preferred, of one or several; 0 with none */
	__u16 first_gateway6;
	__u16 id;
};

/* Index 0 is never used. The MAC stands within one word, so that a reply never sees half of a new one. */
struct gateway {
	__u8 address[16];
	__u8 mac[6];
	__u8 usable; /* the neighbour entry holds a MAC that may be used */
	__u32 ifindex;
} __attribute__((aligned(8)));

enum hop {
	ON_LINK_HOP = 0xffff, /* in place of a gateway: the peer itself */
};

enum on_link_flags {
	ON_LINK = 1 << 0,
	ON_LINK_ROUTED = 1 << 1, /* the kernel has a route that says so */
};

/* Keys of `prefixes`, and what they lead to. */
enum prefix_kind {
	PREFIX_ON_LINK, /* of an interface: enum on_link_flags */
	PREFIX_ROUTED,  /* of one with INTERFACE_ROUTES4, 6: index into `gateways`; 0: not known which one */
	PREFIX_SERVED,  /* networks that this host serves although no interface has them: enum own_flags */
	PREFIX_SOURCE,  /* own addresses: index of the gateway that takes their packets, where not all do */
	PREFIX_GATEWAY, /* MACs of an interface's gateways, in the place of addresses: index into `gateways` */
	PREFIX_HELD,    /* the same, of one whose neighbour entry is held: the tick until which that is believed */
};

/* An LPM key: the first 64 bits of the prefix are not of the address. */
struct prefix_key {
	__u32 length; /* 64 + that of the address, or of the MAC */
	__u32 ifindex; /* 0 where the kind is of none */
	__u16 kind; /* enum prefix_kind */
	__u16 family; /* 4 or 6: ::/0 would hold all addresses of IPv4 as well */
	__u8 address[16];
};

enum own_flags {
	OWN_ADDRESS = 1 << 0,
	OWN_LOOPBACK_ONLY = 1 << 1, /* only lo or a dummy device has it */
	OWN_TRANSLATED = 1 << 2,    /* no interface has it: a rule of the firewall names it */
	OWN_CONFIGURED = 1 << 3,    /* or the configuration */
	OWN_INTERFACE_SHIFT = 16,   /* above: id of the only interface that has it; 0 for none */
};

#define MAX_EXCLUSIONS 64
#define EXCLUSION_SETS 2

/* A zero mask matches every address, a zero port or protocol every one. */
struct exclusion {
	__u64 peer[2];
	__u64 peer_mask[2];
	__u64 self[2];
	__u64 self_mask[2];
	__be16 self_port;
	__u8 protocol;
};

struct exclusion_set {
	__u32 count;
	struct exclusion rule[MAX_EXCLUSIONS];
};

enum follow {
	FOLLOW_VALIDATED = 0,
	FOLLOW_PINNED = 1,
	FOLLOW_LATEST = 2,
};

/* Whether wildcard UDP sockets are made to answer from the address that was asked. */
enum source_repair {
	REPAIR_OFF = 0,
	REPAIR_WATCH = 1, /* the loader waits for one that is asked: for LEAD_WATCHED */
	REPAIR_ON = 2,    /* the programs of source_repair.h are attached */
};

struct settings {
	__u32 generation;    /* of what admission asks: raised when any of it changes */
	__u8 follow;         /* enum follow */
	__u8 scope_all;      /* forwarded flows too */
	__u8 loopback;       /* 1: an address on lo is treated as any own address */
	__u8 repair;         /* enum source_repair */
	__u32 in_force;      /* of `exclusions` */
	__u8 protocols[32];  /* one bit for each IP protocol that is recorded */
	__u32 routing_generation; /* of what decides where the host's own go: raised when it changes; 0: never set */
	__u8 related;        /* what the host originates goes as answers to its peer go: see originate.h */
	__u64 until;         /* bpf_ktime_get_ns(): a trial is over then, and all observe; 0: no trial */
	/* One is in force; a new one is written to the other: half a rule may match everything. */
	struct exclusion_set exclusions[EXCLUSION_SETS];
};

/* What is counted for an interface pair. Uncorrected packets carry a reason. */
enum outcome {
	OUTCOME_ASYMMETRIC = 0, /* of flows; packets are those of all other outcomes of replies. Where `left` says it: sent rightly */
	OUTCOME_CORRECTED = 1,
	OUTCOME_LINK_DOWN = 2,
	OUTCOME_NO_NEXT_HOP = 3,
	OUTCOME_MTU = 4,
	OUTCOME_NO_HEADER_ROOM = 5,
	OUTCOME_OBSERVE = 6,
	OUTCOME_BOUND_DEVICE = 7,
	OUTCOME_REWRITE_FAILED = 8,
	OUTCOME_WEAK_HOST = 9, /* of what the host originates only: host_model: weak */
	OUTCOME_LOST = 10,     /* redirected, and never seen at the target */
	OUTCOME_LOST_LINK_DOWN = 11, /* and that is down by now */
	OUTCOME_UNNAMED_TUNNEL = 12, /* of requests: `to` does not take those for addresses that `from` has */
	OUTCOME_UNRECORDED = 13, /* of requests that came by `from`, and `to`: of `protocol`, an IPPROTO_* here */
	OUTCOME_END,
	OUTCOME_ORIGINATED = 1 << 7, /* added to the outcome of what the host originates */
};

enum protocol_class {
	CLASS_OTHER = 0,
	CLASS_TCP = 1,
	CLASS_UDP = 2,
	CLASS_ICMP = 3,
	CLASS_ICMPV6 = 4,
	CLASS_SCTP = 5,
	CLASS_END,
};

struct pair {
	__u16 from; /* id of an interface: the kernel's choice */
	__u16 to;   /* the flow's */
	__u8 family;
	__u8 protocol; /* enum protocol_class */
	__u8 outcome;  /* enum outcome */
	__u8 pad;
} __attribute__((aligned(8)));

struct pair_count {
	__u64 packets; /* on the wire: a GSO packet is its segments */
	__u64 bytes;   /* on the wire, with the Ethernet header */
	__u64 flows;
	__u32 last;    /* ticks: the last of these packets, if they were not corrected */
	__u32 pad;
};

/* Where one CPU counts a pair. Its family, which is never 0, says that there is one. */
struct pair_slot {
	struct pair pair;
	struct pair_count count;
} __attribute__((aligned(64))); /* within a line of memory */

/* What is counted without an interface pair. A number never becomes another event's: maps outlive versions. */
enum event {
	/* Packets that could not be read; they pass. */
	EVENT_UNPARSED_TRUNCATED = 0,
	EVENT_UNPARSED_MALFORMED = 1,
	EVENT_UNPARSED_EXTENSION_HEADERS = 2,
	EVENT_UNPARSED_FRAGMENT = 3,
	EVENT_UNPARSED_SOURCE_ROUTE = 4,
	/* Inbound packets that start no flow although they could; they pass. */
	EVENT_IGNORED_NOT_OWN = 5,
	EVENT_IGNORED_SOURCE = 6,
	EVENT_IGNORED_LOOPBACK = 7,
	EVENT_IGNORED_EXCLUDED = 8,
	EVENT_IGNORED_PROTOCOL = 9,
	EVENT_IGNORED_IPSEC = 10,
	EVENT_IGNORED_INTERFACE = 11,
	EVENT_IGNORED_MAC = 12,
	EVENT_IGNORED_ANSWER = 13, /* the host spoke first */
	EVENT_IGNORED_HANDSHAKE = 14, /* an ACK that answers no SYN-ACK of ours */
	EVENT_IGNORED_SEGMENT = 15,   /* not what its socket expects */
	/* New entries, by table. */
	EVENT_ADMITTED_HALF_OPEN = 16,
	EVENT_ADMITTED_ESTABLISHED = 17,
	EVENT_ADMITTED_CONNECTIONLESS = 18,
	EVENT_ADMITTED_OUTBOUND = 19,
	EVENT_INSERT_FAILED_HALF_OPEN = 20,
	EVENT_INSERT_FAILED_ESTABLISHED = 21,
	EVENT_INSERT_FAILED_CONNECTIONLESS = 22,
	EVENT_INSERT_FAILED_COUNTER = 24, /* 23 and 25 to 28 were other events */
	/* Connections that were entered in mid-life, among the admitted. */
	EVENT_READMITTED_ESTABLISHED = 29,
	/* Refused moves. */
	EVENT_REFUSED_PINNED = 30,
	EVENT_REFUSED_CONTESTED = 31,
	/* Moves, by protocol class. */
	EVENT_MOVED = 32,
	/* Answers of wildcard sockets that were given the address that had been asked. */
	EVENT_SOURCE_REPAIRED_V4 = EVENT_MOVED + CLASS_END,
	EVENT_SOURCE_REPAIRED_V6,
	EVENT_IGNORED_NO_SOCKET, /* another that starts no flow: a segment that nobody here takes */
	/* What ended at the device of the fallback route. */
	EVENT_FALLBACK_DROPPED_V4,
	EVENT_FALLBACK_DROPPED_V6,
	EVENT_IGNORED_TUNNEL, /* another that starts no flow: for an address that a tunnel has not, which nobody named */
	EVENT_TRACE_LOST, /* a packet that a tracer was not told of, for want of room */
	/* By which way replies through a sender go from now on, in the order of FLOW_WAY. */
	EVENT_LEARNT_RULE,
	EVENT_LEARNT_LAST_HOP,
	EVENT_LEARNT_AS_ROUTED,
	EVENT_END,
};

/* Kinds of flow, in the order of their events above: as people know them. */
enum table {
	TABLE_HALF_OPEN = 0,
	TABLE_ESTABLISHED = 1,
	TABLE_CONNECTIONLESS = 2,
	TABLE_END,
	/* No tables: what is of no flow, and counted in a record; and that goes as answers to its peer go. */
	TABLE_ORIGINATED,
	TABLE_RELATED,
};

/* What a place of the table holds, by rank: who needs room takes the lowest. Assured and established ones were validated. */
enum kind {
	KIND_FREE,
	KIND_MARK,        /* of a tuple that is no flow, under a key of its own: see negative_cache.h. Has no cell */
	KIND_STRAY,
	KIND_HANDSHAKE,
	KIND_QUESTION,
	KIND_ASKER,       /* a record, as the next ones: see originate.h. The peer's datagrams go on: may be forged */
	KIND_COMER,       /* it has a connection that goes on, or had one */
	KIND_CLOSING,
	KIND_NOTE,        /* its cell is a struct note: see outbound.h */
	KIND_RECORD,      /* the host spoke to it: only what was validated takes the place */
	KIND_ASSURED,     /* whoever forges two questions gets there: so it pushes out no connection */
	KIND_ESTABLISHED,
	KIND_TAKEN,       /* a flow is being written */
};

/* A place: the upper bits of a digest, what it holds, and how old that is. */
enum place {
	PLACE_STAMP_SHIFT = 5,   /* ticks of an entry become a stamp, of which 19 bits are kept */
	PLACE_SPILLED = 1 << 19, /* of a bucket's first: what found no room here stands in the other bucket */
	PLACE_KIND_SHIFT = 20,
	PLACE_KEY_SHIFT = 24,
	PLACES = 8, /* of a bucket: a line of memory */
	PLACES_VALIDATED = 7, /* the last is for what may be anybody's: questions and handshakes always find room */
	PLACE_SHARE = 3, /* so many of a bucket a kind that anybody can fill takes from others */
};

struct bucket {
	__u64 place[PLACES];
};

/* What changes places of these buckets holds it. Each has a line of memory of its own. */
struct bucket_lock {
	struct bpf_spin_lock lock;
	__u32 changes;
	__u8 pad[56];
};

enum tail {
	TAIL_SEND = 0,   /* ends a move: see reply.h */
	TAIL_NOBODY = 1, /* ends what is for nobody: replypath_fallback */
	TAIL_END,
};

/* What leads to a flow beside its tuple: the lowest bits of a key of `leads`. */
enum lead_kind {
	LEAD_WATCHED = 0, /* all of a key: a wildcard socket was asked, and the loader waits for that */
	LEAD_ASKER = 1,   /* a UDP peer and both ports: by which flow it asked last, see source_repair.h */
	LEAD_PARTS = 2,   /* a packet in fragments: what was decided about the first one, see portless.h */
	LEAD_KINDS = 4,   /* a power of two */
};

struct lead {
	__u64 digest; /* of the flow */
	__u32 seen;   /* ticks */
	__u8 table;   /* enum table */
	__u8 outcome; /* enum outcome, of a first fragment */
	__u8 protocol;
	__u8 pad;
};

/*
 * What shows by which path a peer comes to an own address, the better the later. Answers may show that of a connection too. None
 * is a bit of enum flow_state, which may be set where a flow's cell has become a record.
 */
enum proof {
	PROOF_CONVERSATION = 1 << 4, /* its datagrams were answered, and went on for a second; may be forged */
	PROOF_ANSWERS = 1 << 5,      /* it answered what the host began; datagrams may be forged */
	PROOF_CONNECTION = 1 << 6,   /* it ended a handshake, or a socket expected its segments */
};

/*
 * By which path a peer comes to an own address, and what the host originates from there to that peer. The cell may become a
 * flow's at any moment: what is written in place stands where that has times and counts, which mend themselves.
 */
struct record {
	__u8 peer[16];
	__u8 self[16];
	__u64 flow;      /* digest of the flow that shows the path; 0: of none */
	__u32 seen;      /* ticks: the last packet that was originated */
	__u8 proof;      /* of enum proof; 0: nothing shows it */
	__u8 outcome;    /* enum outcome, of the last packet; moved: CORRECTED */
	__u16 size_told; /* as of a flow */
	struct path path; /* by which the peer comes; ifindex 0: that is not known */
	__u64 moved;     /* packets that were moved to the interface of the source */
	__u32 heard;     /* ticks, to a second: when something showed the path last */
	__be16 peer_port; /* of the last packet, to a tick, as in a tuple */
	__be16 self_port;
	__u32 created;   /* ticks: the first packet */
	__u16 generation; /* low bits of the routing generation for which `hop` was chosen */
	__u16 hop;       /* index of a gateway, 0 for none, or ON_LINK_HOP */
	__u16 to;        /* id of the interface with the source; 0: nothing was originated yet */
	__u8 moved_of;   /* a bit for each enum protocol_class that was counted as a pair that was moved */
	__u8 routed_of;  /* and as one that went as routed */
	__u16 from;      /* id of an interface: the kernel's choice */
	__u8 pad;
	__u8 protocol;   /* as the ports */
};

/*
 * What the program at the target interface needs to count a packet that was just redirected to it: it runs on the same
 * CPU, within the same call of dev_queue_xmit. skb->tc_index says which packet is meant.
 */
struct handover {
	__u64 digest;
	__u64 pair;     /* a struct pair, its outcome not set yet, but for OUTCOME_ORIGINATED */
	__u32 ifindex;  /* of the target; 0: nothing is on its way */
	__u32 packets;  /* that it becomes on the wire */
	__u16 ticket;   /* what skb->tc_index must hold */
	__u16 tc_index; /* what it held before */
	__u8 frame[14]; /* the Ethernet header; its type matters only where there was none */
	__u8 table;     /* enum table */
	bool headerless; /* the target's frames have no Ethernet header */
	__u32 proven_jiffy; /* jiffy in which the kernel said that the target of `pair` is there */
	bool may_leave_unseen; /* our program is not there yet, or it waits for the MAC of its next hop */
	bool first;     /* OUTCOME_ORIGINATED: the first of its pair that was moved */
	bool traced;    /* the tracer was told of it */
};

enum trace_kind {
	TRACE_IN = 0,   /* came in and was recorded, or not */
	TRACE_OUT = 1,  /* leaves, is moved, or goes back to its sender */
	TRACE_LEFT = 2, /* what was moved leaves: the next event on its CPU, which has nothing but time and place */
};

enum trace_form {
	TRACE_PACKET = 0,
	TRACE_ECHO_REQUEST = 1,
	TRACE_ECHO_REPLY = 2,
	TRACE_ERROR = 3,    /* an ICMP error of ours about a packet of the flow */
	TRACE_FRAGMENT = 4, /* a later one: it has no ports of its own */
};

/* A packet that matches the filter, at one of our programs. */
struct trace_event {
	__u64 time;          /* bpf_ktime_get_ns() */
	struct tuple tuple;
	struct path path;    /* OUT: by which its source wants it to leave; 0 where a flow decides, or nothing does */
	__u64 counted;       /* IN: a bit for each enum event that it raised */
	__u32 cpu;
	__u32 ifindex;       /* where it was seen; OUT: the kernel's choice */
	__u32 flow_ifindex;  /* the flow's; 0 without one */
	__u32 out_ifindex;   /* OUT: where it leaves; 0: it does not, its sender may get an error in its place */
	__u32 length;        /* bytes, with the Ethernet header; of all its segments; 0 of what does not leave */
	__u8 kind;           /* enum trace_kind */
	__u8 family;
	__u8 tcp_flags;
	__u8 table;          /* enum table of the flow; TABLE_END: no flow; above: what decided in its place */
	__u8 outcome;        /* OUT: enum outcome, 0 where nothing was to be done */
	__u8 form;           /* enum trace_form */
	__u8 mac[6];         /* IN: the source; OUT: the destination as it leaves */
	__u8 kernel_mac[6];  /* OUT: the destination that the kernel chose */
	__u16 packets;       /* on the wire: a GSO packet is its segments; 0 of what does not leave */
};

/* What is traced: addresses under masks, as in an exclusion. */
struct trace_request {
	__u64 peer[2];
	__u64 peer_mask[2];
	__u64 self[2];
	__u64 self_mask[2];
	__u32 until; /* ticks; 0: nobody traces */
};
