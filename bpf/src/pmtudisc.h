/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Senders that heed no error about the size of what they send. */
#pragma once

#include "kernel.h"

#define FAMILY_IPV4 2 /* AF_INET */
#define FAMILY_IPV6 10 /* AF_INET6 */

#define PMTUDISC_INTERFACE 4 /* IP_PMTUDISC_*, IPV6_PMTUDISC_*: 5 is OMIT */

/*
 * Whether the socket that sent the packet goes by its route's interface alone (ip_sk_accept_pmtu() in
 * include/net/ip.h). Name servers ask for that, as they fear forged errors: to tell them would lose the packet for
 * nothing, each time that another client asks.
 */
static inline bool ignores_path_mtu(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct inet_sock *inet;

	if (!have_kernel_skb || !sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	if (!sk || (sk->family != FAMILY_IPV4 && sk->family != FAMILY_IPV6))
		return false;
	inet = bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct inet_sock));
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return inet->pmtudisc >= PMTUDISC_INTERFACE;
	return BPF_CORE_READ_BITFIELD(inet->pinet6, pmtudisc) >= PMTUDISC_INTERFACE;
}
