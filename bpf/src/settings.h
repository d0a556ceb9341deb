/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the operator configured. */
#pragma once

#include "maps.h"

static inline struct settings *get_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&configuration, &zero);
}

static inline bool is_listed(const struct settings *settings, __u8 protocol)
{
	return settings->protocols[protocol >> 3] & (1 << (protocol & 7));
}

/* Nobody has confirmed a trial in time, whoever is left to take it back. */
static inline bool is_trial_over(void)
{
	const struct settings *settings = get_settings();

	return settings && unlikely(settings->until) && bpf_ktime_get_ns() >= settings->until;
}

static inline bool is_enforced(const struct interface *interface)
{
	__u32 zero = 0, *mode = bpf_map_lookup_elem(&mode_by_hand, &zero);

	if (is_trial_over())
		return false;
	if (mode && *mode != MODE_CONFIGURED)
		return *mode == MODE_ENFORCE;
	return interface->mode == MODE_ENFORCE;
}
