/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A reply whose flow is known: moved, re-addressed or left, and counted. */
#pragma once

#include "originate.h"
#include "outage.h"
#include "portless.h"
#include "trace.h"

#define MACS (2 * ETH_ALEN) /* with which an Ethernet frame begins: destination, source */

/* Stamps the flow with the time at which a reply leaves, and what became of it: 0 where the kernel sends it rightly. */
static inline void stamp_left(struct flow *flow, enum outcome outcome)
{
	__u32 left = (now() & -LEFT_TICKS) | outcome;

	_Static_assert(OUTCOME_END <= (int)LEFT_TICKS, "an outcome stands below the time");
	if (unlikely(flow->left != left))
		flow->left = left;
}

/* Counts the flow whose reply the kernel sends by another path. Its packets are those of all other outcomes. */
static inline void count_asymmetric(struct flow *flow, __u64 pair)
{
	struct pair_count *count;

	if (likely(flow->state & FLOW_ASYMMETRIC))
		return;
	flow->state |= FLOW_ASYMMETRIC;
	count = find_pair(pair); /* OUTCOME_ASYMMETRIC */
	if (count)
		count->flows++;
}

/* A reply that could not go by the way of its flow tells nothing of that way. */
static inline void count_reply(struct __sk_buff *skb, struct flow *flow, __u64 pair, __u32 packets,
			       enum outcome outcome)
{
	bool moved = outcome == OUTCOME_CORRECTED, first = moved && !(flow->state & FLOW_CORRECTED);

	if (first)
		flow->state |= FLOW_CORRECTED;
	if (moved)
		__sync_fetch_and_add(&flow->corrected, packets);
	else if (flow->attempt)
		flow->attempt |= ATTEMPT_ASTRAY;
	stamp_left(flow, outcome);
	count_pair(skb, pair, outcome, packets, first);
}

/* Returns whether this is the first packet of its pair and protocol of which that became. */
static inline bool record_outcome(struct record *record, const struct packet *packet, enum outcome outcome)
{
	bool moved = outcome == OUTCOME_CORRECTED;
	__u8 bit = 1 << protocol_class(packet->protocol);
	bool first = !((moved ? record->moved_of : record->routed_of) & bit);

	_Static_assert(CLASS_END <= 8, "a byte has a bit for each");
	if (unlikely(first))
		set_counted(ends_digest(&packet->tuple), bit, moved);
	if (unlikely(record->outcome != outcome))
		record->outcome = outcome;
	return first;
}

/* Leaves word for the program at the target, which runs next. A container can send a ticket, which alone proves nothing. */
static inline void hand_over(struct __sk_buff *skb, const struct packet *packet, __u32 ifindex, __u64 pair,
			     __u32 packets, enum table table, struct handover *handover)
{
	handover->ifindex = ifindex;
	handover->digest = packet->digest;
	handover->ticket = handover->ticket == 0xffff ? 1 : handover->ticket + 1; /* never 0 */
	handover->tc_index = skb->tc_index;
	handover->pair = pair;
	handover->packets = packets;
	handover->table = table;
	handover->first = handover->traced = false;
	skb->tc_index = handover->ticket;
}

/* At the target: whether this is the packet that was just moved here; if so, counts it. */
static inline bool arrived(struct __sk_buff *skb)
{
	struct handover *handover = &get_scratch()->handover;
	struct flow *flow;

	if (handover->ifindex != skb->ifindex || handover->ticket != skb->tc_index)
		return false;
	handover->ifindex = 0;
	skb->tc_index = handover->tc_index;
	flow = handover->table >= TABLE_ORIGINATED ? NULL : find_digest(handover->digest, handover->table);
	if (likely(flow))
		count_reply(skb, flow, handover->pair, handover->packets, OUTCOME_CORRECTED);
	else /* originated, or evicted this very moment */
		count_pair(skb, handover->pair, OUTCOME_CORRECTED, handover->packets, handover->first);
	if (unlikely(handover->traced))
		trace_left(skb);
	return true;
}

/*
 * The packet that was moved last on this CPU never came to its target: the kernel, or somebody's program, dropped it, when it was
 * sent, which may be long ago.
 */
static __noinline void count_lost(struct __sk_buff *skb, struct handover *handover)
{
	bool is_there = is_usable(target_of(handover->pair), handover->ifindex);
	__u64 pair = handover->pair & ~with_outcome(0, OUTCOME_ORIGINATED);
	enum outcome outcome = is_there ? OUTCOME_LOST : OUTCOME_LOST_LINK_DOWN;
	__u32 sent = now() - ((__u32)bpf_jiffies64() - handover->proven_jiffy) / JIFFIES_PER_TICK;
	struct pair_count *count;
	struct flow *flow;

	handover->ifindex = 0;
	if (handover->may_leave_unseen)
		return;
	flow = handover->table >= TABLE_ORIGINATED ? NULL : find_digest(handover->digest, handover->table);
	if (flow && (!flow->left || (__s32)(sent - (flow->left & -LEFT_TICKS)) >= LEFT_TICKS)) /* else one may have left since */
		flow->left = (sent & -LEFT_TICKS) | outcome;
	count_pair(skb, pair, outcome, handover->packets, false);
	count = find_slot(with_outcome(pair, outcome));
	if (count)
		count->last = sent;
}

/*
 * Whether the linear part is the packet's own, though another sk_buff shares the data: TCP keeps what it sends, without
 * the headers, until it is acknowledged (include/linux/skbuff.h, skb_clone_writable(), skb_header_cloned()).
 */
static inline bool has_own_headers(const struct sk_buff *kernel)
{
	const struct skb_shared_info *shared;
	__u32 references;

	if (kernel->data - kernel->head + kernel->len - kernel->data_len > kernel->hdr_len)
		return false;
	shared = bpf_rdonly_cast(kernel->head + kernel->end, bpf_core_type_id_kernel(struct skb_shared_info));
	references = shared->dataref.counter;
	return (references & 0xffff) - (references >> 16) == 1;
}

/* Whether the first bytes may be written without a copy: nobody else has them, and they are in the linear part. */
static inline bool is_writable(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct sk_buff *kernel = bpf_cast_to_kern_ctx(skb);

	if (data + MACS > end)
		return false;
	if (!BPF_CORE_READ_BITFIELD(kernel, cloned))
		return true;
	return bpf_core_field_exists(kernel->hdr_len) && has_own_headers(kernel);
}

/*
 * Writes both MACs; not 0 where that failed. Does not come back where it can redirect as well.
 *
 * bpf_skb_store_bytes() costs as much as all else together. Direct writes cost nothing, but in a program that has them
 * the kernel first makes the data of every packet private, and drops the packet where it has no memory for that
 * (net/core/filter.c, bpf_unclone_prologue). So they are in a program of their own, which only packets get to of which
 * nothing has to be copied; a tail call that fails comes back here. What is traced does not get there: trace() follows.
 */
static inline int write_macs(struct __sk_buff *skb, struct handover *handover)
{
	if (have_tail_calls && have_kernel_skb && likely(is_writable(skb)) && !is_traced())
		bpf_tail_call(skb, &tails, TAIL_SEND);
	return bpf_skb_store_bytes(skb, 0, handover->frame, MACS, 0);
}

SEC("tc")
int replypath_send(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct handover *handover = &get_scratch()->handover;

	if (data + MACS > end)
		return PASS;
	/* As they were stored: in other pieces they would have to reach the cache first, with all that was begun before. */
	copy_mac(data, handover->frame);
	copy_mac(data + ETH_ALEN, handover->frame + ETH_ALEN);
	return bpf_redirect(handover->ifindex, 0);
}

/* Puts an Ethernet header before a packet that has none; not 0 where that failed. */
static inline int add_header(struct __sk_buff *skb, struct handover *handover)
{
	*(__be16 *)(handover->frame + MACS) = skb->protocol;
	/* The head is private then: the store cannot fail. */
	return bpf_skb_change_head(skb, ETH_HLEN, 0) || bpf_skb_store_bytes(skb, 0, handover->frame, ETH_HLEN, 0);
}

/*
 * Gives the frame the header of the target and redirects it. The kernel takes one off where the target has none
 * (net/core/filter.c, __bpf_redirect_no_mac). Returns PASS where that failed: the packet is as it was.
 */
static inline int send(struct __sk_buff *skb, struct handover *handover, bool on_link, __u32 header)
{
	if (!handover->headerless &&
	    unlikely(header ? !on_link && write_macs(skb, handover) : add_header(skb, handover)))
		return PASS;
	return on_link ? redirect_to_peer(skb, handover->ifindex) : bpf_redirect(handover->ifindex, 0);
}

/*
 * Where the reply goes that leaves by its flow's wire. Where the kernel chose the device `below` that of the flow, its
 * next hop is as good as one that only frames have shown.
 */
static inline bool next_hop_on_wire(const struct flow *flow, const struct packet *packet, const struct interface *interface,
				    bool below, mac_word *mac)
{
	bool found = next_hop_mac(flow, packet, interface, mac);

	if (!below || (found && (flow->gateway || flow->flags & (FLOW_ENFORCE_MAC | FLOW_LAST_HOP))) || is_nobody(packet->mac))
		return found;
	*mac = read_mac(packet->mac);
	return true;
}

/* Writes the MAC of the next hop, and that of this interface where the frame has the one of the device below it. */
static inline enum outcome rewrite_macs(struct __sk_buff *skb, const struct interface *interface, const mac_word *mac, bool below)
{
	mac_word own = read_mac(interface->mac);

	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), mac, ETH_ALEN, 0) ||
	    (below && bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_source), &own, ETH_ALEN, 0)))
		return OUTCOME_REWRITE_FAILED;
	return OUTCOME_CORRECTED;
}

/* The kernel chose the flow's interface, whose next hop may be another, or the device below it, whose MAC is (macvlan). */
static __noinline int readdress(struct __sk_buff *skb, struct packet *packet, struct flow *flow,
				enum table table)
{
	struct interface *interface = get_interface(flow->interface, flow->ifindex);
	bool below = flow->ifindex != skb->ifindex;
	__u64 pair = pair_of(below ? id_of(interface_at(skb->ifindex)) : flow->interface, flow->interface, packet);
	__u32 packets = wire_packets(skb, packet);
	enum outcome outcome;
	mac_word mac;

	if (packet->fragment)
		settle_fragments(packet, table, OUTCOME_CORRECTED);
	if (!interface) {
		outcome = OUTCOME_LINK_DOWN;
	} else if (!next_hop_on_wire(flow, packet, interface, below, &mac)) {
		outcome = OUTCOME_NO_NEXT_HOP;
	} else if (!below && mac_equal((const __u8 *)&mac, packet->mac)) {
		stamp_left(flow, 0);
		return PASS;
	} else {
		count_asymmetric(flow, pair);
		outcome = is_enforced(interface) ? rewrite_macs(skb, interface, &mac, below) : OUTCOME_OBSERVE;
	}
	packet->outcome = outcome;
	count_reply(skb, flow, pair, packets, outcome);
	return PASS;
}

/* Whether the flow's interface is still that device, and up. For packets in a row the kernel is asked once a jiffy. */
static inline bool is_proven(const struct flow *flow, struct handover *handover, __u64 pair)
{
	__u32 jiffy = bpf_jiffies64();

	if (likely(handover->proven_jiffy == jiffy && target_of(handover->pair) == target_of(pair)))
		return true;
	if (!is_usable(flow->interface, flow->ifindex))
		return false;
	handover->pair = pair;
	handover->proven_jiffy = jiffy;
	return true;
}

/* After the redirect there is no way back, nor proof that the packet left: all is looked at before. */
static inline enum outcome prepare(struct __sk_buff *skb, const struct packet *packet,
				   const struct flow *flow, const struct record *record,
				   const struct interface *target, struct handover *handover, __u64 pair, __u32 header)
{
	struct bpf_sock *sk;
	mac_word mac;

	if (unlikely(packet->settled)) /* where the first fragment was not moved, the others are not */
		return packet->settled;
	if (!target || !is_proven(flow, handover, pair))
		return OUTCOME_LINK_DOWN;
	if (!is_enforced(target))
		return OUTCOME_OBSERVE;
	sk = skb->sk; /* that of what a tunnel carries says nothing of what carries it */
	if (sk && unlikely(is_bound_off(sk->bound_dev_if, target)) && sent_it(sk, packet))
		return OUTCOME_BOUND_DEVICE;
	handover->headerless = target->flags & INTERFACE_NO_HEADER;
	handover->may_leave_unseen = flow->flags & FLOW_ON_LINK || target->flags & INTERFACE_UNSEEN;
	if (likely(!handover->headerless)) {
		if (!next_hop_mac(flow, packet, target, &mac))
			return OUTCOME_NO_NEXT_HOP;
		if (unlikely(record) && !(flow->flags & FLOW_ON_LINK) && !is_unicast((const __u8 *)&mac))
			return OUTCOME_NO_NEXT_HOP; /* no frame has shown one */
		copy_mac(handover->frame, &mac);
		flow = after_reading(flow, &mac, 1);
		mac = read_mac(target->mac);
		copy_mac(handover->frame + ETH_ALEN, &mac);
	}
	if (unlikely(*(volatile const __u32 *)&flow->ifindex != target->ifindex) ||
	    unlikely(!address_equal(flow->tuple.peer, packet->tuple.peer)))
		return OUTCOME_LINK_DOWN; /* its entry has become another's this very moment, and so may the MAC be */
	if (!fits_interface(skb, packet, target, header))
		return OUTCOME_MTU;
	if (unlikely(packet->tcp_flags & TCP_SYN))
		announce_size(skb, packet, target);
	return OUTCOME_CORRECTED;
}

/* The kernel chose another interface. `record`: of what the host originates, which has no flow; NULL for a reply. */
static inline int redirect(struct __sk_buff *skb, struct packet *packet, struct flow *flow, enum table table,
		       struct record *record, const struct interface *target, __u32 ifindex, __u32 header)
{
	__u64 pair = pair_of(id_of(interface_at(skb->ifindex)), flow->interface, packet);
	struct handover *handover = &get_scratch()->handover;
	__u32 packets = wire_packets(skb, packet);
	enum outcome outcome;

	if (unlikely(handover->ifindex))
		count_lost(skb, handover);
	if (unlikely(record))
		pair = with_outcome(pair, OUTCOME_ORIGINATED);
	else
		count_asymmetric(flow, pair);
	outcome = prepare(skb, packet, flow, record, target, handover, pair, header);
	if (unlikely(packet->fragment))
		settle_fragments(packet, table, outcome);
	packet->outcome = outcome;
	if (likely(outcome == OUTCOME_CORRECTED)) {
		hand_over(skb, packet, ifindex, pair, packets, table, handover);
		if (unlikely(record)) {
			handover->first = record_outcome(record, packet, OUTCOME_CORRECTED);
			__sync_fetch_and_add(&record->moved, packets);
		}
		if (likely(send(skb, handover, flow->flags & FLOW_ON_LINK, header) == TC_ACT_REDIRECT))
			return TC_ACT_REDIRECT;
		handover->ifindex = 0; /* the frame stays here after all */
		skb->tc_index = handover->tc_index;
		outcome = header ? OUTCOME_REWRITE_FAILED : OUTCOME_NO_HEADER_ROOM;
		packet->outcome = outcome;
		if (record)
			__sync_fetch_and_sub(&record->moved, packets);
		if (unlikely(packet->fragment))
			settle_fragments(packet, table, outcome);
	}
	if (likely(!record))
		count_reply(skb, flow, pair, packets, outcome);
	else
		count_pair(skb, pair, outcome, packets, record_outcome(record, packet, outcome));
	if (outcome == OUTCOME_MTU && target &&
	    tell_sender(skb, packet, record ? &record->size_told : &flow->size_told, target->mtu, header))
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return PASS;
}

/* If the flow's device stands on this one (macvlan), the frame is on its way down, unless it has this one's MAC. */
static inline int reply(struct __sk_buff *skb, struct packet *packet, struct flow *flow, enum table table,
			struct record *record, __u32 header)
{
	__u32 ifindex = *(volatile __u32 *)&flow->ifindex;
	const struct interface *target, *lower;

	if (unlikely(flow->flags & FLOW_AS_ROUTED) && leads_out(skb, packet)) {
		stamp_left(flow, 0);
		return PASS;
	}
	if (ifindex != skb->ifindex) {
		target = get_interface(flow->interface, ifindex);
		if (likely(!target || target->lower != skb->ifindex))
			return redirect(skb, packet, flow, table, record, target, ifindex, header);
		lower = interface_at(skb->ifindex);
		if (header && lower && !mac_equal(lower->mac, target->mac) && is_hosts_frame(skb, lower))
			return readdress(skb, packet, flow, table);
		if (!((flow->left ^ now()) & -LEFT_TICKS))
			return PASS; /* stamped by the device on this one, perhaps as moved */
	} else if (header && (unlikely(flow->flags & (FLOW_ENFORCE_MAC | FLOW_LAST_HOP)) || unlikely(is_nobody(packet->mac)))) {
		return readdress(skb, packet, flow, table);
	}
	stamp_left(flow, 0); /* the kernel has chosen what the flow asks for */
	return PASS;
}
