/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What has to hold before an inbound packet starts a flow, and what an own address is to the host. */
#pragma once

#include "path.h"

/* Whether this rule of a list excludes the scratch packet's tuple. */
__noinline int excludes(__u32 list, __u32 number)
{
	const struct exclusion *rule = &configuration.exclusions[list % EXCLUSION_SETS].rule[number % MAX_EXCLUSIONS];
	const struct tuple *tuple = &scratch_packet()->tuple;

	return (!rule->protocol || rule->protocol == tuple->protocol) &&
	       (!rule->self_port || rule->self_port == tuple->self_port) &&
	       masked_equal(tuple->peer, rule->peer, rule->peer_mask) &&
	       masked_equal(tuple->self, rule->self, rule->self_mask);
}

__noinline int is_excluded(void)
{
	__u32 in_force = *(const volatile __u32 *)&configuration.in_force % EXCLUSION_SETS;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < MAX_EXCLUSIONS && i < configuration.exclusions[in_force].count; i++)
		if (excludes(in_force, i))
			return true;
	return false;
}

static inline bool is_recorded(const struct packet *packet)
{
	return configuration.protocols[packet->protocol >> 3] & (1 << (packet->protocol & 7));
}

/* The interface with this id, NULL for none: by its device, which the kernel knows to be there. */
static inline const struct interface *interface_of(__u32 id)
{
	const __u32 *device = bpf_map_lookup_elem(&devices, &id);

	return device ? get_interface(id, *device) : NULL;
}

/* That of routing above that of admission: what either decides is void when it changes. */
static inline __u64 generations(void)
{
	return (__u64)*(volatile __u32 *)&configuration.routing_generation << 32 |
	       *(volatile __u32 *)&configuration.generation;
}

/* The first of the two places that an own address may have. Which addresses share them differs by host. */
static inline struct known_self *places_of_self(const __u64 *self)
{
	_Static_assert(SELVES == 2 << (64 - 59), "the index has 5 bits");
	return &get_scratch()->selves[(self[0] * digest_seed[0] + self[1] * digest_seed[1]) >> 59 << 1];
}

static inline bool is_known(const struct known_self *known, const __u64 *self)
{
	return !((known->self[0] ^ self[0]) | (known->self[1] ^ self[1]) | (known->generation ^ generations()));
}

/* What the own address of the scratch packet is to the host. If its interface is not there, it is asked again. */
__noinline int learn_self(void)
{
	struct scratch *scratch = get_scratch();
	const struct packet *packet = &scratch->packet;
	const __u64 *self = (const __u64 *)packet->tuple.self;
	struct known_self *place = places_of_self(self);
	__u64 generation = generations(); /* read before all else */
	__u32 own = own_address(packet->tuple.self), id = own >> OWN_INTERFACE_SHIFT;
	const struct interface *interface = id ? interface_of(id) : NULL;
	const __u32 *served = own ? NULL : find_prefix(packet->family, packet->tuple.self, 16, PREFIX_SERVED, 0);

	place[1] = place[0];
	place[0] = (struct known_self){
		.self = { self[0], self[1] },
		.generation = id && !interface ? 0 : generation,
		.own = served ? *served : own,
		.ifindex = interface ? interface->ifindex : 0,
		.lower = interface ? interface->lower : 0,
	};
	return 0;
}

/* What the own address of a packet is to the host: each CPU keeps it in mind, as it is the same for all but a few. */
static inline struct known_self *self_of(const struct packet *packet)
{
	const __u64 *self = (const __u64 *)packet->tuple.self;
	struct known_self *known = places_of_self(self);

	if (likely(is_known(known, self)))
		return known;
	if (is_known(known + 1, self))
		return known + 1;
	put_in_scratch(packet);
	learn_self();
	return known;
}

/* What starts flows by this interface, enum takes; by 0 what does by any. */
static inline __u8 takes_by(__u32 ifindex)
{
	__u32 none = INTERFACE_PLACES;
	const struct interface *interface = ifindex ? interface_at(ifindex) : bpf_map_lookup_elem(&interfaces, &none);

	return interface ? interface->takes : 0;
}

/* Whether nothing for the address is ours that comes in by this interface, or by 0 by any. */
static inline bool is_foreign(const struct known_self *self, __u8 family, __u32 ifindex)
{
	return !self->own && !configuration.scope_all &&
	       !(takes_by(ifindex) & (family == 4 ? TAKES_ALL4 : TAKES_ALL6));
}

/* Whether the packet is for an address that an interface does not have, which takes only what is for its own. */
static inline bool is_of_others(const struct packet *packet, __u32 ifindex)
{
	const struct interface *interface = interface_at(ifindex);

	return interface && interface->takes & TAKES_ITS_OWN_ONLY &&
	       self_of(packet)->own >> OWN_INTERFACE_SHIFT != interface->id;
}

/*
 * Whether replies from this own address go as routed: only lo or a dummy device has it. Datagrams have flows all the
 * same, for the address that a wildcard socket was asked on.
 */
static inline bool is_routed_anyway(const struct known_self *self)
{
	return self->own & OWN_LOOPBACK_ONLY && !configuration.loopback;
}

/* Why packets for this own address start no flow by this interface, 0 of what the host sends; EVENT_END: they may. */
static inline enum event refusal_of_self(const struct packet *packet, __u32 ifindex)
{
	const struct known_self *self = self_of(packet);

	if (is_foreign(self, packet->family, ifindex))
		return EVENT_IGNORED_NOT_OWN;
	if (is_routed_anyway(self) && (packet->protocol != IPPROTO_UDP || configuration.repair == REPAIR_OFF))
		return EVENT_IGNORED_LOOPBACK;
	return is_of_others(packet, ifindex) ? EVENT_IGNORED_TUNNEL : EVENT_END;
}

/* Why the scratch packet starts no flow by this interface; EVENT_END where it may, if it did not come by IPsec. */
__noinline int refusal(__u32 ifindex)
{
	const struct packet *packet = scratch_packet();
	const struct tuple *tuple = &packet->tuple;
	enum event reason = refusal_of_self(packet, ifindex);

	if (reason != EVENT_END)
		return reason;
	if (!address_is_ordinary(tuple->peer) || !address_is_ordinary(tuple->self) || own_address(tuple->peer))
		return EVENT_IGNORED_SOURCE;
	if (is_excluded())
		return EVENT_IGNORED_EXCLUDED;
	return is_recorded(packet) ? EVENT_END : EVENT_IGNORED_PROTOCOL;
}

/* Whether this interface is why something starts no flow: by another one it may. */
static inline bool is_of_interface(enum event reason)
{
	return reason == EVENT_IGNORED_NOT_OWN || reason == EVENT_IGNORED_TUNNEL;
}

/* Counts what an unnamed tunnel brought, for `doctor` by the interface with the address. Returns whether it did. */
static __noinline bool refuse_tunnel(struct __sk_buff *skb, const struct packet *packet)
{
	__u64 pair;

	if (!is_of_others(packet, skb->ifindex))
		return false;
	pair = pair_of(own_address(packet->tuple.self) >> OWN_INTERFACE_SHIFT, id_of(interface_at(skb->ifindex)), packet);
	count_pair(skb, pair, OUTCOME_UNNAMED_TUNNEL, 1, false);
	count_event(EVENT_IGNORED_TUNNEL);
	return true;
}

/* Tunnels and IPsec: what others may ask this host by. A counter for each number would fill the map by a scan of them. */
static inline bool is_carrier(__u8 protocol)
{
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6 || protocol == IPPROTO_GRE || protocol == IPPROTO_ESP ||
	       protocol == IPPROTO_AH || protocol == IPPROTO_COMP || protocol == IPPROTO_L2TP;
}

/* Counts that such a packet came for this host, and its protocol is not recorded: for `doctor`, by interface. */
static inline void count_unrecorded(struct __sk_buff *skb, const struct packet *packet)
{
	__u16 id = id_of(interface_at(skb->ifindex));
	struct pair pair = { id, id, packet->family, packet->protocol, 0, 0 };

	if (is_carrier(packet->protocol) && self_of(packet)->own)
		count_pair(skb, *(__u64 *)&pair, OUTCOME_UNRECORDED, 1, false);
}

/* Returns whether the scratch packet may start a flow; counts why it may not. */
__noinline int may_start(struct __sk_buff *skb)
{
	const struct packet *packet = scratch_packet();
	enum event reason = refusal(skb->ifindex);
	struct bpf_xfrm_state ipsec;

	/* The inside of an IPsec packet: its peer is reached through the tunnel. */
	if (reason == EVENT_END && !bpf_skb_get_xfrm_state(skb, 0, &ipsec, sizeof(ipsec), 0))
		reason = EVENT_IGNORED_IPSEC;
	if (reason == EVENT_IGNORED_PROTOCOL)
		count_unrecorded(skb, packet);
	if (reason == EVENT_IGNORED_TUNNEL)
		refuse_tunnel(skb, packet);
	else if (reason != EVENT_END)
		count_event(reason);
	return reason == EVENT_END;
}

/*
 * Whether replies arrive by this way is still to be seen (docs/design/ways.md): what was in flight left by another. The
 * socket was asked just now.
 */
static inline void put_on_trial(const struct packet *packet, struct flow *flow, __u8 attempt)
{
	flow->flags |= FLOW_ON_TRIAL;
	flow->attempt = attempt;
	flow->sent = now();
	if (!(flow->flags & FLOW_NO_SOCKET)) {
		flow->snd_nxt = get_scratch()->socket_snd_nxt;
		flow->rcv_nxt = packet->seq;
	}
	flow->snd_una = flow->snd_nxt;
}

/* Enters the flow that the scratch packet starts, with these flags and state, and with this frame's path. */
static __noinline bool enter(struct __sk_buff *skb, struct scratch *scratch, enum table table, __u16 flags, __u8 state)
{
	const struct packet *packet = &scratch->packet;
	struct flow *flow = &scratch->flow;

	if (!find_way_back(skb, LEARNT_WAY))
		return false;
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->tuple = packet->tuple;
	flow->seen = flow->created = now();
	flow->rcv_nxt = is_syn(packet) ? segment_end(packet) + 1 : 0;
	flow->flags = flags;
	flow->state = state;
	if (flags & FLOW_ON_TRIAL)
		put_on_trial(packet, flow, ATTEMPT_FIRST);
	take_path(scratch);
	return enter_flow(table, false);
}

/* Keeps the path of a segment without a socket, for the RST that answers it: a stray (docs/design/packet.md). */
static inline void admit_stray(struct __sk_buff *skb, struct scratch *scratch)
{
	struct flow *old = look_up(&scratch->packet, TABLE_HALF_OPEN);

	if (!old || !(old->flags & FLOW_STRAY) || !came_by(old, skb, &scratch->packet))
		enter(skb, scratch, TABLE_HALF_OPEN, FLOW_STRAY, 0);
	else if (is_due(old)) {
		old->seen = now();
		renew_place(scratch->packet.digest, KINDS_HALF_OPEN);
	}
}

/*
 * Whether a segment that a mark says is of no flow may end a handshake that was answered since; or shows its stray another
 * path than the entry has, or is the first this second.
 */
static inline bool changes_half_open(const struct __sk_buff *skb, const struct packet *packet)
{
	const struct flow *flow = find(packet, TABLE_HALF_OPEN);

	return flow && (flow->flags & FLOW_STRAY ? !is_next_frame(skb, packet, flow) : flow->state & FLOW_REPLIED);
}
