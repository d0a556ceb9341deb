/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What would become of a reply, for `replypath explain`: the functions that decide about packets decide about a flow that is
 * recorded or supposed. Run by BPF_PROG_TEST_RUN only, at the interface that the kernel chose. No map is written.
 */
#pragma once

#include "reply.h"

/* The kernel chose the flow's interface: as readdress(). */
static inline enum outcome would_readdress(const struct explain_question *question, const struct packet *packet,
					   struct explain_answer *answer)
{
	const struct flow *flow = &question->flow;
	const struct interface *interface = get_interface(flow->interface, flow->ifindex);
	mac_word mac;

	if (!interface)
		return OUTCOME_LINK_DOWN;
	if (!next_hop_mac(flow, packet, interface, &mac))
		return OUTCOME_NO_NEXT_HOP;
	copy_mac(answer->mac, &mac);
	if (mac_equal(answer->mac, packet->mac))
		return OUTCOME_END;
	return is_enforced(interface) ? OUTCOME_CORRECTED : OUTCOME_OBSERVE;
}

/* It chose another one. The frame of the run has no socket, and is small: what is asked about comes with the question. */
static inline enum outcome would_move(struct __sk_buff *skb, const struct explain_question *question,
				      const struct packet *packet, const struct interface *target,
				      struct explain_answer *answer)
{
	const struct flow *flow = &question->flow;
	struct handover handover = {}; /* not the processor's: a packet may be on its way */
	enum outcome outcome = prepare(skb, packet, flow, target, &handover, 0, ETH_HLEN);

	if (!target || outcome == OUTCOME_LINK_DOWN || outcome == OUTCOME_OBSERVE)
		return outcome;
	if (is_bound_off(question->bound, target))
		return OUTCOME_BOUND_DEVICE;
	if (outcome != OUTCOME_CORRECTED)
		return outcome;
	copy_mac(answer->mac, handover.frame);
	return question->size > target->mtu ? OUTCOME_MTU : OUTCOME_CORRECTED;
}

/* reply(), without doing it. OUTCOME_END: it goes as the kernel sends it, and rightly. */
static inline enum outcome would_reply(struct __sk_buff *skb, const struct explain_question *question,
				       const struct packet *packet, struct explain_answer *answer)
{
	const struct flow *flow = &question->flow;
	const struct interface *target = get_interface(flow->interface, flow->ifindex);

	if (flow->ifindex != skb->ifindex)
		return target && target->lower == skb->ifindex ? OUTCOME_END
							       : would_move(skb, question, packet, target, answer);
	if (question->bare || !(flow->flags & FLOW_ENFORCE_MAC || is_nobody(packet->mac)))
		return OUTCOME_END;
	return would_readdress(question, packet, answer);
}

SEC("tc")
int replypath_explain(struct __sk_buff *skb)
{
	struct explain_question question = {};
	struct explain_answer answer = {};
	struct packet packet = {};

	if (bpf_skb_load_bytes(skb, 0, &question, sizeof(question)))
		return 1;
	packet.tuple = question.flow.tuple;
	packet.family = address_is_v4(packet.tuple.peer) ? 4 : 6;
	packet.protocol = packet.tuple.protocol;
	copy_mac(packet.mac, question.mac);
	answer.outcome = would_reply(skb, &question, &packet, &answer);
	return bpf_skb_store_bytes(skb, 0, &answer, sizeof(answer), 0) ? 1 : 0;
}
