/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses that the loader has not told of, as they have just come (a failover), or nobody is there to tell: the
 * device that a packet came in by has them. Its lists are looked at, in the kernel's memory. They show nothing else:
 * not what another device has, lo among them, or what somebody takes for his own by a rule of the firewall or a local
 * route. Of a device with more addresses than are looked at here the loader tells later; it takes out as well what has
 * gone.
 */
#pragma once

#include "next_hop.h"

#define MOST_LOOKED_AT 64

/* The device of a managed interface, NULL where the kernel's memory cannot be read. */
static inline const struct net_device *managed_device(__u32 ifindex)
{
	__u32 index = interface_index(ifindex);
	const __u32 *value;

	if (!index || !shows_link())
		return NULL;
	value = bpf_map_lookup_elem(&devices, &index);
	return value && *value == ifindex ? device_of(value) : NULL;
}

__noinline int has_v4(__u32 ifindex, __u32 v4)
{
	const struct net_device *device = managed_device(ifindex);
	const struct in_ifaddr *at;

	if (!device || !bpf_core_field_exists(struct in_ifaddr, ifa_local))
		return false;
	at = BPF_CORE_READ(device, ip_ptr, ifa_list);
#pragma clang loop unroll(disable)
	for (int i = 0; i < MOST_LOOKED_AT && at; i++) {
		if (BPF_CORE_READ(at, ifa_local) == v4)
			return true;
		at = BPF_CORE_READ(at, ifa_next);
	}
	return false;
}

/* The same of IPv6, whose address comes as two words as they stand in memory. */
__noinline int has_v6(__u32 ifindex, __u64 first, __u64 second)
{
	const struct net_device *device = managed_device(ifindex);
	const struct list_head *at;

	if (!device || !bpf_core_field_exists(struct inet6_ifaddr, if_list))
		return false;
	at = BPF_CORE_READ(device, ip6_ptr, addr_list.next);
#pragma clang loop unroll(disable)
	for (int i = 0; i < MOST_LOOKED_AT && at; i++) {
		const struct inet6_ifaddr *entry =
			(const void *)at - bpf_core_field_offset(struct inet6_ifaddr, if_list);
		__u64 address[2] = {};

		bpf_core_read(address, sizeof(address), &entry->addr);
		if (address[0] == first && address[1] == second)
			return true;
		at = BPF_CORE_READ(at, next); /* the last one leads back to the device, which has no such address */
	}
	return false;
}

static inline bool has_come(const __u8 *address, __u32 ifindex)
{
	const __u64 *half = (const __u64 *)address;

	if (!address_is_ordinary(address))
		return false;
	if (address_is_v4(address))
		return has_v4(ifindex, ((const __u32 *)address)[3]);
	return has_v6(ifindex, half[0], half[1]);
}

/* Enters an address that has come, for all that asks from now on. Returns its enum own_flags. */
static inline __u32 learn_address(const __u8 *address)
{
	__u32 flags = OWN_ADDRESS;

	bpf_map_update_elem(&own_addresses, address, &flags, BPF_NOEXIST);
	return flags;
}
