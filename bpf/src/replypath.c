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

/* Types that only appear as constants reach the Go side through these declarations. */
#define EXPORT_ENUM(name) const enum name *unused_##name __attribute__((unused))
EXPORT_ENUM(layout);
EXPORT_ENUM(tick);
EXPORT_ENUM(idle_seconds);
EXPORT_ENUM(flow_flags);
EXPORT_ENUM(flow_state);
EXPORT_ENUM(next_hop_mode);
EXPORT_ENUM(mode);
EXPORT_ENUM(interface_flags);
EXPORT_ENUM(takes);
EXPORT_ENUM(own_flags);
EXPORT_ENUM(on_link_flags);
EXPORT_ENUM(prefix_kind);
EXPORT_ENUM(follow);
EXPORT_ENUM(source_repair);
EXPORT_ENUM(outcome);
EXPORT_ENUM(protocol_class);
EXPORT_ENUM(event);
EXPORT_ENUM(table);
EXPORT_ENUM(tail);
EXPORT_ENUM(trace_kind);
EXPORT_ENUM(trace_form);
const struct trace_event *unused_trace_event __attribute__((unused));

char _license[] SEC("license") = "Dual BSD/GPL";
