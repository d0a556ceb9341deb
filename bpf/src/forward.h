/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the host forwards to the device of the fallback route, before it gets there: the
 * route has the kernel ask between the hooks FORWARD and POSTROUTING of netfilter (kernel:
 * bpf_output() in net/core/lwt_bpf.c, for ip_output()). What came so far would be noted by
 * connection tracking, by which a container's connection would not outlive the fault:
 *
 * - one that is masqueraded is forgotten, as it leaves by another interface than it did
 *   (nf_nat_oif_changed() in include/net/netfilter/nf_nat.h, nf_nat_inet_fn());
 * - one that is not known is noted without a translation where the rule for that is for
 *   the interface that has gone, and is not translated afterwards either.
 *
 * So what nobody answers on that device ends here. What passes: what the host sends, replies
 * of connections that others began, what belongs to a flow, and a SYN, which is answered.
 */
#pragma once

#include "parse.h"
#include "table.h"

#define CONNTRACK_INFO 7UL /* NFCT_INFOMASK */
#define CONNTRACK_REPLY 3  /* IP_CT_IS_REPLY: what is less was sent by who began; more is untracked */

/*
 * Whether who began a connection, for connection tracking, sends this. As a number the
 * packet's address passes through a map: see is_transparent().
 */
static __always_inline bool is_original(struct __sk_buff *skb)
{
	struct scratch *through = get_scratch();
	const struct sk_buff *kernel;
	unsigned long tracked;

	if (!have_probe_read || !through)
		return false;
	through->socket = (__u64)skb;
	kernel = (const struct sk_buff *)*(volatile __u64 *)&through->socket;
	if (!bpf_core_field_exists(kernel->_nfct))
		return false;
	tracked = BPF_CORE_READ(kernel, _nfct);
	return tracked & ~CONNTRACK_INFO && (tracked & CONNTRACK_INFO) < CONNTRACK_REPLY;
}

static __always_inline bool has_flow(const struct packet *packet)
{
	if (packet->protocol != IPPROTO_TCP)
		return find_live(packet, TABLE_CONNECTIONLESS);
	return find_live(packet, TABLE_ESTABLISHED) || find_live(packet, TABLE_HALF_OPEN);
}

static __always_inline int end_of_forwarded(struct __sk_buff *skb)
{
	struct packet packet = {};

	if (!skb->ingress_ifindex || !is_original(skb) ||
	    parse(skb, &packet, OUTBOUND, 0) != PARSED || is_syn(&packet) || has_flow(&packet))
		return BPF_OK;
	count_event(packet.family == 4 ? EVENT_FALLBACK_DROPPED_V4 : EVENT_FALLBACK_DROPPED_V6);
	return BPF_DROP;
}
