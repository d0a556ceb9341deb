/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs that see all packets, one for each direction and kind of device, and those for user space. Others stand
 * with what they do, in reply.h, source_repair.h and outage.h. All can be attached by TCX and by cls_bpf in
 * direct-action mode, but for those of source_repair.h (a cgroup's).
 */
#include "egress.h"
#include "ingress.h"

SEC("tc")
int replypath_ingress(struct __sk_buff *skb)
{
	return ingress(skb, ETH_HLEN);
}

SEC("tc")
int replypath_egress(struct __sk_buff *skb)
{
	return egress(skb, ETH_HLEN);
}

/* Devices whose frames start with the IP header. */
SEC("tc")
int replypath_ingress_l3(struct __sk_buff *skb)
{
	return ingress(skb, 0);
}

SEC("tc")
int replypath_egress_l3(struct __sk_buff *skb)
{
	return egress(skb, 0);
}

/* Tells the time of the entries, in ticks: user space cannot read jiffies. Run by BPF_PROG_TEST_RUN only. */
SEC("tc")
int replypath_clock(struct __sk_buff *skb)
{
	(void)skb;
	return now();
}

/* Types that only appear as constants reach the Go side through this declaration. */
void (*const types_for_go)(enum layout, enum tick, enum idle_seconds, enum flow_flags, enum flow_state, enum attempt,
	       enum next_hop_mode, enum hop, enum mode, enum interface_flags, enum takes, enum own_flags,
	       enum on_link_flags, enum prefix_kind, enum lead_kind, enum follow, enum source_repair, enum outcome,
	       enum protocol_class, enum event, enum table, enum kind, enum place, enum proof, struct note, enum tail, enum trace_kind,
	       enum trace_form, struct trace_event);

char _license[] SEC("license") = "Dual BSD/GPL";
