/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A reply whose flow is known: moved, re-addressed or left, and counted. */
#pragma once

#include "outage.h"
#include "portless.h"
#include "send.h"

static inline enum outcome rewrite(struct __sk_buff *skb, const struct interface *interface, mac_word mac)
{
	if (!is_enforced(interface))
		return OUTCOME_OBSERVE;
	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), &mac, ETH_ALEN, 0))
		return OUTCOME_REWRITE_FAILED;
	return OUTCOME_CORRECTED;
}

/* The kernel has chosen what the flow asks for. */
static inline int leave(struct flow *flow)
{
	stamp_left(flow, 0);
	return PASS;
}

/* The kernel chose the flow's interface; its next hop there may be another. */
static __noinline int readdress(struct __sk_buff *skb, struct packet *packet, struct flow *flow,
				enum table table)
{
	struct interface *interface = get_interface(flow->interface, flow->ifindex);
	__u64 pair = pair_of(flow->interface, flow->interface, packet);
	__u32 packets = wire_packets(skb, packet);
	enum outcome outcome;
	mac_word mac;

	if (packet->fragment)
		settle_fragments(packet, table, OUTCOME_CORRECTED);
	if (!interface) {
		outcome = OUTCOME_LINK_DOWN;
	} else if (!next_hop_mac(flow, packet, interface, &mac)) {
		outcome = OUTCOME_NO_NEXT_HOP;
	} else if (mac_equal((const __u8 *)&mac, packet->mac)) {
		return leave(flow);
	} else {
		count_reply(skb, flow, pair, packets, OUTCOME_ASYMMETRIC);
		outcome = rewrite(skb, interface, mac);
	}
	packet->outcome = outcome;
	count_reply(skb, flow, pair, packets, outcome);
	return PASS;
}

/* Whether the packet's socket is bound elsewhere. That of what a tunnel carries says nothing of what carries it. */
static inline bool is_bound_elsewhere(const struct __sk_buff *skb, const struct packet *packet,
				      const struct interface *target)
{
	struct bpf_sock *sk = skb->sk;

	return sk && unlikely(is_bound_off(sk->bound_dev_if, target)) && sent_it(sk, packet);
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
				   const struct flow *flow, const struct interface *target,
				   struct handover *handover, __u64 pair, __u32 header)
{
	mac_word mac;

	if (unlikely(packet->settled)) /* all fragments of a packet go the same way */
		return packet->settled;
	if (!target)
		return OUTCOME_LINK_DOWN;
	if (!is_proven(flow, handover, pair))
		return OUTCOME_LINK_DOWN;
	if (!is_enforced(target))
		return OUTCOME_OBSERVE;
	if (is_bound_elsewhere(skb, packet, target))
		return OUTCOME_BOUND_DEVICE;
	memory_barrier();
	handover->headerless = target->flags & INTERFACE_NO_HEADER;
	handover->may_leave_unseen = flow->flags & FLOW_ON_LINK || target->flags & INTERFACE_UNSEEN;
	if (likely(!handover->headerless)) {
		if (!next_hop_mac(flow, packet, target, &mac))
			return OUTCOME_NO_NEXT_HOP;
		compose_macs(handover->frame, mac, read_mac(target->mac));
	}
	memory_barrier();
	if (unlikely(*(volatile const __u32 *)&flow->ifindex != target->ifindex))
		return OUTCOME_LINK_DOWN; /* it moves at this very moment: the MAC may be of its new path */
	if (!fits_interface(skb, packet, target, header))
		return OUTCOME_MTU;
	if (unlikely(packet->tcp_flags & TCP_SYN))
		announce_size(skb, packet, target);
	return OUTCOME_CORRECTED;
}

/*
 * The kernel chose another interface than the flow's. `record`: of what the host originates, which has no flow; NULL for
 * a reply. What is moved is counted here in the record, and among all packets where it leaves.
 */
static inline int redirect(struct __sk_buff *skb, struct packet *packet, struct flow *flow, enum table table,
		       struct record *record, const struct interface *target, __u32 ifindex, __u32 header)
{
	__u64 pair = pair_of(interface_index(skb->ifindex), flow->interface, packet);
	struct handover *handover = get_handover();
	__u32 packets = wire_packets(skb, packet);
	enum outcome outcome;

	if (!handover)
		return PASS;
	if (unlikely(handover->ifindex))
		count_lost(skb, handover);
	if (unlikely(record))
		pair = with_outcome(pair, OUTCOME_ORIGINATED);
	else
		count_reply(skb, flow, pair, packets, OUTCOME_ASYMMETRIC);
	outcome = prepare(skb, packet, flow, target, handover, pair, header);
	if (unlikely(packet->fragment))
		settle_fragments(packet, table, outcome);
	if (likely(outcome == OUTCOME_CORRECTED)) {
		hand_over(skb, packet, ifindex, pair, packets, table, handover);
		if (unlikely(record)) {
			handover->first = record_outcome(record, packet, OUTCOME_CORRECTED);
			__sync_fetch_and_add(&record->moved, packets);
		}
		packet->outcome = outcome;
		if (likely(!(flow->flags & FLOW_ON_LINK ? send_on_link(skb, packet, handover, header)
							: send(skb, handover, header))))
			return TC_ACT_REDIRECT;
		outcome = header ? OUTCOME_REWRITE_FAILED : OUTCOME_NO_HEADER_ROOM;
		if (record)
			__sync_fetch_and_sub(&record->moved, packets);
		if (unlikely(packet->fragment))
			settle_fragments(packet, table, outcome);
	}
	packet->outcome = outcome;
	if (likely(!record))
		count_reply(skb, flow, pair, packets, outcome);
	else
		count_pair(skb, with_outcome(pair, outcome), packets, record_outcome(record, packet, outcome));
	if (outcome == OUTCOME_MTU && tell_sender(skb, flow, header)) {
		if (record)
			record->size_told = flow->size_told;
		return bpf_redirect(ifindex, BPF_F_INGRESS);
	}
	return PASS;
}

/*
 * A reply of a known flow in this table, or what has a record. If its device stands on this one (macvlan) it is on its
 * way down.
 */
static inline int reply(struct __sk_buff *skb, struct packet *packet, struct flow *flow, enum table table,
			struct record *record, __u32 header)
{
	__u32 ifindex = *(volatile __u32 *)&flow->ifindex;
	const struct interface *target;

	if (ifindex == skb->ifindex && (!header || (likely(!(flow->flags & FLOW_ENFORCE_MAC)) && likely(!is_nobody(packet->mac)))))
		return leave(flow);
	if (ifindex == skb->ifindex)
		return readdress(skb, packet, flow, table);
	target = get_interface(flow->interface, ifindex);
	if (unlikely(target && target->lower == skb->ifindex))
		return leave(flow);
	return redirect(skb, packet, flow, table, record, target, ifindex, header);
}
