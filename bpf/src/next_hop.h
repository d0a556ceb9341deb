/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Next hops: chosen when a frame comes in, turned into a MAC when the reply
 * leaves. A flow refers to a gateway, not to a copy of its MAC, so that a
 * gateway with a new MAC takes all its flows along.
 */
#pragma once

#include "table.h"

/* The two words of a flow that say by which way it came. */
struct way {
	__u32 ifindex;
	__u16 interface;
	__u16 gateway;
	__u8 mac[6];
	__u16 flags;
} __attribute__((aligned(8)));

/* The managed interface at this array index, NULL once it is gone or another. */
static __always_inline struct interface *get_interface(__u32 index, __u32 ifindex)
{
	struct interface *interface = bpf_map_lookup_elem(&interfaces, &index);

	return interface && interface->ifindex == ifindex ? interface : NULL;
}

/*
 * Whether the flow's interface is still the device that it was, says the kernel: nobody
 * may have been there to see it go, and its ifindex may be another's by now.
 */
static __always_inline bool is_same_device(const struct flow *flow)
{
	__u32 index = flow->interface, *ifindex = bpf_map_lookup_elem(&devices, &index);

	return ifindex && *ifindex == flow->ifindex;
}

/* Index into `interfaces` of a managed interface, 0 for one that is not. */
static __always_inline __u32 interface_index(__u32 ifindex)
{
	__u32 low = ifindex % INTERFACE_INDICES;
	__u32 *index = bpf_map_lookup_elem(&managed, &low);

	return index && get_interface(*index, ifindex) ? *index : 0;
}

/* The known gateway that sent this frame, 0 for none. */
static __always_inline __u32 gateway_by_mac(const struct __sk_buff *skb,
					    const struct packet *packet)
{
	struct gateway_mac key = { .ifindex = skb->ifindex, .family = packet->family };
	__u32 *index;

	copy_mac(key.mac, packet->mac);
	index = bpf_map_lookup_elem(&gateway_macs, &key);
	return index ? *index : 0;
}

/*
 * auto: a direct neighbour is answered directly; else the reply takes the
 * gateway that the frame came through, matched by its MAC, or the only one that
 * there is; else it goes back to the MAC that it came from. Where an interface
 * has several gateways and this one was matched, the kernel's choice among them
 * is corrected too.
 */
static __always_inline void choose_next_hop(const struct __sk_buff *skb,
					    const struct packet *packet,
					    const struct interface *interface, struct way *way)
{
	__u32 count = packet->family == 4 ? interface->gateways4 : interface->gateways6;
	__u32 only = packet->family == 4 ? interface->gateway4 : interface->gateway6;
	__u16 flags = 0, gateway = 0;

	switch (interface->next_hop) {
	case NEXT_HOP_LAST:
		flags = FLOW_ENFORCE_MAC;
		break;
	case NEXT_HOP_GATEWAY:
		flags = FLOW_NEXT_HOP_GATEWAY;
		gateway = count > 1 ? gateway_by_mac(skb, packet) : only;
		break;
	default:
		if (!count || address_is_on_link(packet->tuple.peer, skb->ifindex))
			break;
		gateway = count > 1 ? gateway_by_mac(skb, packet) : only;
		if (gateway)
			flags = FLOW_NEXT_HOP_GATEWAY;
		if (gateway && count > 1)
			flags |= FLOW_ENFORCE_MAC;
	}
	way->gateway = gateway;
	way->flags = (way->flags & ~(FLOW_NEXT_HOP_GATEWAY | FLOW_ENFORCE_MAC)) | flags;
}

/* Where the reply goes; NULL where only a gateway will do and none is usable. */
static __always_inline const __u8 *next_hop_mac(const struct flow *flow,
						const struct interface *interface)
{
	if (flow->flags & FLOW_NEXT_HOP_GATEWAY) {
		__u32 index = flow->gateway;
		struct gateway *gateway = bpf_map_lookup_elem(&gateways, &index);

		if (gateway && index && gateway->usable && gateway->ifindex == flow->ifindex)
			return gateway->mac;
		if (interface->next_hop == NEXT_HOP_GATEWAY)
			return NULL;
	}
	return flow->mac;
}
