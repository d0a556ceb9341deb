/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What handshakes tell: by which way replies arrive (docs/design/ways.md). Whether a SYN-ACK arrived is seen by the ACK,
 * or by the SYN that comes again. Replies through a sender begin by the rule's way; until that has completed a handshake,
 * a SYN-ACK that is sent again takes the next one. The way changes where the SYN-ACK leaves, whatever had it sent again:
 * the kernel's timer and the peer's SYN do so within milliseconds of each other.
 */
#pragma once

#include "originate.h"
#include "outbound.h"
#include "reply.h"

/* How often the link of an interface went down, as the low bits of the kernel's count; 0 where that cannot be read. */
__noinline int times_down(__u32 id)
{
	const __u32 *index = bpf_map_lookup_elem(&devices, &id);
	const struct net_device *device = index ? device_behind(index) : NULL;

	return device ? BPF_CORE_READ(device, carrier_down_count.counter) & 0xffff : 0;
}

/* Whether a handshake may teach by which way to reply: no setting says. */
static inline bool may_learn(const struct interface *interface)
{
	return interface && interface->next_hop == NEXT_HOP_AUTO;
}

/* Whether it still holds: docs/design/ways.md. A gateway that cannot be used now is taken for the same. */
static inline bool still_holds(const struct learnt *learnt, const struct path *path)
{
	mac_word mac = 0;

	return age(learnt->heard) <= seconds(IDLE_SENDER) && learnt->downs == times_down(path->interface) &&
	       (!gateway_mac(path->gateway, path->ifindex, &mac) || mac_equal((const __u8 *)&mac, learnt->gateway));
}

/* What was learnt of the packet's sender, which becomes the scratch sender; NULL for nothing. */
static __noinline struct learnt *find_learnt(const struct packet *packet, const struct path *path)
{
	struct sender *sender = &get_scratch()->sender;
	struct learnt *learnt;

	sender->interface = path->interface;
	sender->gateway = path->gateway;
	if (!path->gateway && on_link_flags_of(packet, path->ifindex)) /* answered directly by the rule */
		sender->gateway = ON_LINK_HOP;
	copy_mac(sender->mac, path->mac);
	__builtin_memcpy(sender->self, packet->tuple.self, sizeof(sender->self));
	learnt = bpf_map_lookup_elem(&ways, sender);
	return learnt && still_holds(learnt, path) ? learnt : NULL;
}

#define HEARD_SECONDS 30

static inline void hear(struct learnt *learnt)
{
	if (age(learnt->heard) >= seconds(HEARD_SECONDS))
		learnt->heard = now();
}

/*
 * The way of replies by the scratch's path: this one, or LEARNT_WAY, where no setting says. By a way that is not proven
 * nothing begins but handshakes: they find out.
 */
__noinline int way_of(__u32 way)
{
	struct scratch *scratch = get_scratch();
	const struct packet *packet = &scratch->packet;
	struct learnt *learnt;

	if (is_routed_anyway(self_of(packet)))
		return FLOW_AS_ROUTED;
	if (!may_learn(interface_at(scratch->path.ifindex)))
		return 0;
	if (way != LEARNT_WAY)
		return way;
	learnt = find_learnt(packet, &scratch->path);
	if (!learnt)
		return 0;
	if (packet->protocol != IPPROTO_TCP)
		hear(learnt);
	if (!is_syn(packet))
		return learnt->proven ? learnt->way : 0;
	return learnt->way | (learnt->settled && learnt->proven && age(learnt->heard) < seconds(HEARD_SECONDS) ? FLOW_SETTLED : 0);
}

/* The way after this one by which the packet may leave; this one where no other differs: what the kernel chose is known here. */
static __noinline __u16 next_way(const struct __sk_buff *skb, const struct packet *packet, const struct flow *flow, __u16 way)
{
	bool own = skb->ifindex == flow->ifindex;
	mac_word rule = 0;

	if (own && !(flow->flags & FLOW_ENFORCE_MAC))
		copy_mac(&rule, packet->mac);
	else if (!gateway_mac(flow->gateway, flow->ifindex, &rule))
		rule = read_mac(flow->mac);
	if (!way && !mac_equal((const __u8 *)&rule, flow->mac))
		return FLOW_LAST_HOP;
	if (way != FLOW_AS_ROUTED && !(flow->attempt & ATTEMPT_REFUSED) && leads_out(skb, packet) &&
	    !(own && (mac_equal(flow->mac, packet->mac) || mac_equal((const __u8 *)&rule, packet->mac))))
		return FLOW_AS_ROUTED;
	return 0;
}

/* Ticks: so long the answer to what left is waited for, before another way is tried. */
static inline __u32 patience(void)
{
	return seconds(3) / 4;
}

#define TRIAL_SECONDS 10 /* more than a peer waits until it sends again */

#define AHEAD 256 /* ticks that another CPU may be */

/* Ticks, of 16 bits; none where another CPU is ahead. */
static inline __u32 since_sent(const struct flow *flow)
{
	__u16 ticks = now() - flow->sent;

	return ticks >= 65536 - AHEAD ? 0 : ticks;
}

/* What is sent again takes the next way; the rule's, where that was seen to work. Returns whether that is another. */
static __noinline bool try_next_way(struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	const struct interface *interface = get_interface(flow->interface, flow->ifindex);
	__u16 way = flow->flags & FLOW_WAY, next;
	const struct learnt *learnt;

	if (since_sent(flow) < patience() || !may_learn(interface) || !is_enforced(interface) ||
	    (interface->lower == skb->ifindex && is_hosts_frame(skb, interface))) /* on its way down */
		return false;
	learnt = find_learnt(packet, path_of(flow));
	next = learnt && !learnt->way ? 0 : next_way(skb, packet, flow, way);
	if (next == way)
		return false;
	flow->attempt |= ATTEMPT_AGAIN;
	flow->flags = (flow->flags & ~FLOW_WAY) | next;
	flow->sent = now();
	return true;
}

#define SECOND_OPINION 60
#define ONE_OPINION_IN 10
#define MOST_TRIES 6 /* of these, each of which takes twice as long as the one before: 10 minutes */

/* Who gives up before we send again teaches nothing: so the unknown sender's next handshake takes the next way. */
static __noinline __u16 begin_unknown(const struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	const struct sender *sender = &get_scratch()->sender;
	struct begun *last = bpf_map_lookup_elem(&begun_by, sender), begun = { .sent = now() };

	if (last && age(last->sent) < seconds(SECOND_OPINION)) {
		if (age(last->sent) < patience())
			return last->way;
		begun.way = next_way(skb, packet, flow, last->way);
	}
	bpf_map_update_elem(&begun_by, sender, &begun, BPF_ANY);
	return begun.way;
}

/* What one handshake taught may be due to a lost frame: a minute later another one begins by the rule's way. */
static __noinline void begin_by_way(const struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	const struct interface *interface = get_interface(flow->interface, flow->ifindex);
	struct learnt *learnt;

	flow->attempt |= ATTEMPT_CHOICE;
	if (flow->flags & FLOW_SETTLED || !may_learn(interface) || !is_enforced(interface))
		return;
	learnt = find_learnt(packet, path_of(flow));
	if (!learnt) {
		flow->flags = (flow->flags & ~FLOW_WAY) | begin_unknown(skb, packet, flow);
	} else if (!learnt->settled && age(learnt->since) >= seconds(SECOND_OPINION) &&
		   age(learnt->tried) >= seconds(ONE_OPINION_IN) << (learnt->tries & 7)) {
		learnt->tried = now();
		learnt->tries += learnt->tries < MOST_TRIES;
		flow->flags &= ~FLOW_WAY;
	}
}

/* Our SYN-ACK leaves. As routed it may not: then it goes by the rule's way, and tells nothing of the other. */
static inline void track_syn_ack(struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	if (flow->attempt & ATTEMPT_SENT)
		try_next_way(skb, packet, flow);
	else if (next_way(skb, packet, flow, 0) && (!(flow->flags & FLOW_AS_ROUTED) || leads_out(skb, packet)))
		begin_by_way(skb, packet, flow);
	flow->attempt |= ATTEMPT_SENT;
	if (!(flow->attempt & ATTEMPT_REFUSED)) /* else what was refused counts: see is_provoked() */
		flow->sent = now();
}

/* By another way only what is new tells whether it arrives: the rest may be acknowledged late (Karn: RFC 6298, 3). */
static inline void expect_new(struct flow *flow)
{
	flow->snd_una = flow->snd_nxt;
	flow->attempt &= ~(ATTEMPT_SENT | ATTEMPT_UNHEARD);
}

/* What leaves of a connection that may be on trial. */
static __noinline void track_segment(struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	__u32 end = segment_end(packet);
	bool is_new = (__s32)(end - flow->snd_nxt) > 0 || (flow->attempt & ATTEMPT_FIRST && end != packet->seq);
	bool is_again = !is_new && end != packet->seq;
	bool on_trial = flow->flags & FLOW_ON_TRIAL && !(packet->tcp_flags & (TCP_SYN | TCP_RST));
	const struct interface *interface = on_trial ? get_interface(flow->interface, flow->ifindex) : NULL;

	if (on_trial && (is_again || (!is_new && flow->attempt & ATTEMPT_UNHEARD))) {
		if (try_next_way(skb, packet, flow))
			expect_new(flow);
	} else if (on_trial && (is_new || (packet->ack != flow->rcv_nxt && !(flow->attempt & ATTEMPT_SENT)))) {
		flow->sent = now();
		flow->attempt = is_new ? flow->attempt & ~ATTEMPT_FIRST : flow->attempt | ATTEMPT_SENT;
	}
	track_sent(packet, flow);
	if (interface && !is_enforced(interface)) { /* whether this arrives tells nothing of the way */
		flow->snd_una = flow->snd_nxt;
		flow->attempt = ATTEMPT_FIRST;
	}
}

/*
 * What the flow's sender teaches: its way completed a handshake, or `with_data` what was sent after it was
 * acknowledged. Our number in a SYN-ACK is known to nobody who has not got it: a way that alone completes a handshake is
 * proven, as is one that brings data. What comes after several ways, a client may make up.
 */
static __noinline void learn_way(const struct packet *packet, const struct flow *flow, bool with_data)
{
	const struct path *path = path_of(flow);
	bool again = flow->attempt & ATTEMPT_AGAIN, proves = with_data || !again;
	struct learnt *learnt, value = { .since = now(), .heard = now(), .tried = now(), .way = flow->flags & FLOW_WAY };
	mac_word gateway = 0;

	if ((flow->attempt & (ATTEMPT_CHOICE | ATTEMPT_ASTRAY)) != ATTEMPT_CHOICE || (flow->flags & FLOW_SETTLED && !again) ||
	    !may_learn(get_interface(flow->interface, flow->ifindex)))
		return;
	learnt = find_learnt(packet, path);
	if (!learnt)
		bpf_map_delete_elem(&begun_by, &get_scratch()->sender);
	if (!value.way && !proves)
		return;
	if (learnt && learnt->way == value.way) {
		hear(learnt);
		learnt->proven |= proves;
		learnt->settled |= again && age(learnt->since) >= seconds(SECOND_OPINION);
		return;
	}
	if (learnt && !learnt->way)
		return; /* for good */
	if (learnt && learnt->proven && again && (!value.way || age(learnt->heard) < seconds(2 * HEARD_SECONDS))) {
		learnt->settled &= !!value.way;
		return;
	}
	value.proven = proves || (learnt && learnt->proven);
	value.settled = !value.way;
	value.downs = times_down(path->interface);
	if (gateway_mac(path->gateway, path->ifindex, &gateway))
		copy_mac(value.gateway, &gateway);
	if (!bpf_map_update_elem(&ways, &get_scratch()->sender, &value, BPF_ANY))
		count_event(EVENT_LEARNT_RULE + (value.way & FLOW_LAST_HOP ? 1 : value.way ? 2 : 0));
}

/* When a trial ends: docs/design/ways.md. If the peer sends again what we acknowledged, our ACK has not arrived. */
static __noinline void judge_trial(const struct packet *packet, struct flow *flow)
{
	if (!(packet->tcp_flags & TCP_ACK))
		return;
	if (packet->ack != flow->snd_una && in_sequence(packet->ack, flow->snd_una, flow->snd_nxt)) {
		learn_way(packet, flow, true);
	} else if (packet->ack != flow->snd_nxt) {
		return; /* what we sent tells more, and nobody forges that number */
	} else if ((__s32)(packet->seq - flow->rcv_nxt) < 0) { /* sent again; or it asks whether we are there */
		if (since_sent(flow) >= patience())
			flow->attempt = (flow->attempt & ~ATTEMPT_SENT) | ATTEMPT_UNHEARD;
		return;
	} else if (!packet->payload || !(flow->attempt & ATTEMPT_SENT) || since_sent(flow) < seconds(TRIAL_SECONDS)) {
		return;
	}
	flow->flags &= ~FLOW_ON_TRIAL;
}
