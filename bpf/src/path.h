/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The path of a flow: interface, MAC and gateway, as its last good frame shows them. A flow refers to a gateway, not to a
 * copy of its MAC, so that a gateway with a new MAC takes all its flows along.
 */
#pragma once

#include "negative_cache.h"

/* The interface with this ifindex, NULL for one without programs. 0 finds at most an empty place, all zeros. */
static inline struct interface *interface_at(__u32 ifindex)
{
	__u32 place = ifindex % INTERFACE_PLACES;
	struct interface *interface = bpf_map_lookup_elem(&interfaces, &place);

	return interface && interface->ifindex == ifindex ? interface : NULL;
}

/* The interface with this id and ifindex, NULL once it is gone or another. */
static inline struct interface *get_interface(__u32 id, __u32 ifindex)
{
	struct interface *interface = interface_at(ifindex);

	return interface && interface->id == id ? interface : NULL;
}

static inline __u16 id_of(const struct interface *interface)
{
	return interface ? interface->id : 0;
}

static inline bool is_enforced(const struct interface *interface)
{
	__u32 mode = mode_by_hand;
	__u64 until = configuration.until;

	/* Nobody has confirmed a trial in time, whoever is left to take it back. */
	if (unlikely(until) && bpf_ktime_get_ns() >= until)
		return false;
	return (mode == MODE_CONFIGURED ? interface->mode : mode) == MODE_ENFORCE;
}

/* The device behind a value of a devmap; NULL where its memory cannot be read. */
static inline const struct net_device *device_behind(const __u32 *value)
{
	if (!have_probe_read || !bpf_core_field_exists(struct bpf_dtab_netdev, val))
		return NULL;
	return BPF_CORE_READ((const struct bpf_dtab_netdev *)((const void *)value - bpf_core_field_offset(struct bpf_dtab_netdev, val)), dev);
}

/*
 * Whether the device can send: it is up, and the kernel has acted upon its carrier. It does so a moment after the carrier
 * has come, and writes down the state first (net/core/link_watch.c, linkwatch_do_dev()). Until then the device has no
 * queue, and what is sent by it is dropped.
 */
static inline bool can_send(const struct net_device *device)
{
	__u64 state;

	if (!(BPF_CORE_READ(device, flags) & IFF_UP) ||
	    BPF_CORE_READ(device, state) >> bpf_core_enum_value(enum netdev_state_t, __LINK_STATE_NOCARRIER) & 1)
		return false;
	state = BPF_CORE_READ_BITFIELD_PROBED(device, operstate);
	return state == IF_OPER_UNKNOWN || state > IF_OPER_LOWERLAYERDOWN;
}

/*
 * Whether a managed interface is still the device that it was, and can send: its ifindex may be another's by now. Where
 * the kernel's memory cannot be read, the loader's word is taken for the link.
 */
__noinline int is_usable(__u32 id, __u32 ifindex)
{
	const __u32 *index = bpf_map_lookup_elem(&devices, &id);
	const struct net_device *device;
	const struct interface *interface;

	if (!index || *index != ifindex)
		return false;
	device = device_behind(index);
	if (device)
		return can_send(device);
	interface = get_interface(id, ifindex);
	return interface && interface->flags & INTERFACE_UP;
}

/* The value of the longest prefix of this kind that holds the address, or the MAC, of this size; NULL for none. */
static inline const __u32 *find_prefix(__u8 family, const void *address, __u32 size, enum prefix_kind kind,
				       __u32 ifindex)
{
	struct prefix_key key = { .length = 64 + 8 * size, .ifindex = ifindex, .kind = kind, .family = family };

	__builtin_memcpy(key.address, address, size);
	return bpf_map_lookup_elem(&prefixes, &key);
}

static inline __u32 gateway_by_mac(const struct __sk_buff *skb, const struct packet *packet)
{
	const __u32 *index = find_prefix(packet->family, packet->mac, ETH_ALEN, PREFIX_GATEWAY, skb->ifindex);

	return index ? *index : 0;
}

/* enum on_link_flags, 0 for a peer that is no neighbour by this device. */
static inline __u32 on_link_flags_of(const struct packet *packet, __u32 ifindex)
{
	const __u32 *flags = find_prefix(packet->family, packet->tuple.peer, 16, PREFIX_ON_LINK, ifindex);

	return flags ? *flags : 0;
}

/* Whether only some peers are served by the gateways of this family. */
static inline bool has_routes(const struct interface *interface, __u8 family)
{
	return interface->flags & (family == 4 ? INTERFACE_ROUTES4 : INTERFACE_ROUTES6);
}

/* Whether the gateways serve this peer. A route may name the one that does; 0: several would do. */
static inline bool is_served(const struct packet *packet, const struct interface *interface, __u32 *gateway)
{
	const __u32 *routed;

	if (likely(!has_routes(interface, packet->family)))
		return true;
	routed = find_prefix(packet->family, packet->tuple.peer, 16, PREFIX_ROUTED, interface->ifindex);
	*gateway = routed ? *routed : 0;
	return routed;
}

/*
 * auto: a direct neighbour is answered directly; else the reply takes the gateway that the frame came through, matched
 * by its MAC, or the only one that there is, if it serves the peer; else it goes back to the MAC that it came from.
 *
 * gateway: the one that the frame came through, the only one, or the one that a route names; one that does not serve
 * the peer only where the frame came through it.
 */
static inline void choose_next_hop(const struct __sk_buff *skb, const struct packet *packet,
				   const struct interface *interface, struct path *path)
{
	__u32 count = packet->family == 4 ? interface->gateways4 : interface->gateways6;
	__u32 gateway = packet->family == 4 ? interface->gateway4 : interface->gateway6;
	bool only_gateways = interface->next_hop == NEXT_HOP_GATEWAY, served;
	__u32 sender;

	if (interface->next_hop == NEXT_HOP_LAST) {
		path->flags = FLOW_ENFORCE_MAC;
		return;
	}
	if (!only_gateways && (!count || on_link_flags_of(packet, skb->ifindex)))
		return;
	served = is_served(packet, interface, &gateway);
	if (count > 1 || !gateway) {
		sender = gateway_by_mac(skb, packet);
		if (sender || !only_gateways)
			gateway = sender;
	}
	path->gateway = gateway;
	if (gateway || only_gateways)
		path->flags = FLOW_NEXT_HOP_GATEWAY;
	/* The kernel may have chosen another gateway, or one by a route of ours. */
	if (!only_gateways && (!served || (gateway && count > 1)))
		path->flags |= FLOW_ENFORCE_MAC;
}

static inline const struct path *path_of(const struct flow *flow)
{
	return (const struct path *)&flow->ifindex;
}

/* A MAC as the first six bytes of a number, in memory; the others are what follows it there. */
typedef __u64 mac_word;

/* Read at once: another CPU may be writing it. What is stored beside the MAC is of the same moment. */
static inline mac_word read_mac(const __u8 *mac)
{
	_Static_assert(offsetof(struct gateway, mac) % sizeof(mac_word) == 0, "read as one number");
	_Static_assert(offsetof(struct flow, mac) % sizeof(mac_word) == 0, "read as one number");
	_Static_assert(offsetof(struct interface, mac) % sizeof(mac_word) == 0, "read as one number");
	return *(const volatile mac_word *)mac;
}

/* The MAC of a gateway of this interface; false where it is not known, or cannot be used. */
static inline bool gateway_mac(__u32 index, __u32 ifindex, mac_word *mac)
{
	const struct gateway *gateway = bpf_map_lookup_elem(&gateways, &index);

	if (!gateway || !index || gateway->ifindex != ifindex)
		return false;
	*mac = read_mac(gateway->mac);
	return ((const __u8 *)mac)[offsetof(struct gateway, usable) - offsetof(struct gateway, mac)];
}

/* Whether the loader holds the entry of the gateway with this MAC (outage.h). Its word counts until a time. */
static inline bool is_held_gateway(const void *mac, __u8 family, __u32 ifindex)
{
	const __u32 *until = find_prefix(family, mac, ETH_ALEN, PREFIX_HELD, ifindex);

	return until && is_ahead(*until, now());
}

/* Where the reply goes; false where only a gateway will do and none is usable. */
static inline bool next_hop_mac(const struct flow *flow, const struct packet *packet,
				const struct interface *interface, mac_word *mac)
{
	__u32 only = packet->family == 4 ? interface->gateway4 : interface->gateway6;

	if ((flow->flags & (FLOW_NEXT_HOP_GATEWAY | FLOW_LAST_HOP)) == FLOW_NEXT_HOP_GATEWAY) {
		if (likely(gateway_mac(flow->gateway, flow->ifindex, mac)))
			return true;
		if (interface->next_hop == NEXT_HOP_GATEWAY) /* the one that replaced it, until the flow chooses anew */
			return !has_routes(interface, packet->family) && gateway_mac(only, flow->ifindex, mac);
	}
	*mac = flow->flags & FLOW_ON_LINK ? 0 : read_mac(flow->mac); /* the kernel finds that of a neighbour */
	return true;
}

static inline bool is_unicast(const __u8 *mac)
{
	return !(mac[0] & 1) && *(__u32 *)mac | *(__u16 *)(mac + 4);
}

/* Puts the scratch packet's path into the scratch, with its next hop; false where nothing can be sent back. */
__noinline int find_path_back(struct __sk_buff *skb)
{
	const struct interface *interface = interface_at(skb->ifindex);
	struct scratch *scratch = get_scratch();

	if (!interface) {
		count_event(EVENT_IGNORED_INTERFACE);
		return false;
	}
	if (!(interface->flags & INTERFACE_NO_HEADER) && !is_unicast(scratch->packet.mac)) {
		count_event(EVENT_IGNORED_MAC);
		return false;
	}
	scratch->path = (struct path){ .ifindex = skb->ifindex, .interface = interface->id };
	copy_mac(scratch->path.mac, scratch->packet.mac);
	choose_next_hop(skb, &scratch->packet, interface, &scratch->path);
	return true;
}

#define LEARNT_WAY FLOW_WAY /* in place of one: that which was learnt */

int way_of(__u32 way); /* see handshake.h */

/* The same with this way, where no setting speaks of it. */
static inline bool find_way_back(struct __sk_buff *skb, __u16 way)
{
	if (!find_path_back(skb))
		return false;
	get_scratch()->path.flags |= way_of(way);
	return true;
}

/* Gives the scratch flow the scratch's path; false where it has that. Flags that are not of a next hop stay. */
static inline bool take_path(struct scratch *scratch)
{
	struct path *its = (struct path *)&scratch->flow.ifindex, *path = &scratch->path;
	const __u64 *x = (const __u64 *)its, *y = (const __u64 *)path;

	_Static_assert(sizeof(*path) == 2 * sizeof(*x), "two words");
	_Static_assert(offsetof(struct flow, flags) - offsetof(struct flow, ifindex) == offsetof(struct path, flags),
		       "alike");
	path->flags |= its->flags & ~(FLOW_NEXT_HOP_GATEWAY | FLOW_ENFORCE_MAC | FLOW_WAY | FLOW_SETTLED);
	if (!((x[0] ^ y[0]) | (x[1] ^ y[1])))
		return false;
	*its = *path;
	scratch->flow.left = 0;
	return true;
}

/*
 * Gives the flow the scratch packet's path and this way, by another cell if there is room: no reply sees half of
 * one. NULL where no reply can go back by that path.
 */
static __noinline struct flow *set_path(struct __sk_buff *skb, struct scratch *scratch, struct flow *flow, enum table table,
					__u16 way)
{
	if (!find_way_back(skb, way))
		return NULL;
	if (copy_flow(&scratch->flow, flow, &scratch->packet)) {
		if (!take_path(scratch))
			return flow;
		if (put_flow(scratch->packet.digest, kind_of(&scratch->flow, table), kinds_of(table)))
			return get_cell(scratch->put.place);
	}
	count_event(EVENT_INSERT_FAILED_HALF_OPEN + table); /* the packet has lost its place */
	return NULL;
}

static inline void set_active(struct flow *flow)
{
	if (!(flow->flags & FLOW_ACTIVE))
		flow->flags |= FLOW_ACTIVE;
}
