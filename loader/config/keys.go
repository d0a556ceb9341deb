// SPDX-License-Identifier: Apache-2.0

package config

import (
	"math"
	"slices"
)

// fields are the keys of the file, in the order in which messages name them.
func (c *Config) fields() []field {
	return []field{
		{"interfaces", c.setInterfaces},
		{"ignore_interfaces", c.setIgnoreInterfaces},
		{"mode", oneOf(&c.Mode, modes)},
		{"follow", oneOf(&c.Follow, follows)},
		{"scope", oneOf(&c.Scope, scopes)},
		{"host_model", oneOf(&c.HostModel, hostModels)},
		{"related", boolean(&c.Related)},
		{"addresses", c.setAddresses},
		{"loopback_addresses", oneOf(&c.LoopbackAddresses, loopbacks)},
		{"exclude", c.setExclude},
		{"protocols", c.setProtocols},
		{"flow_table", c.setFlowTable},
		{"fallback_route", boolean(&c.FallbackRoute)},
		{"manage_rp_filter", boolean(&c.ManageRPFilter)},
		{"repair_udp_source", oneOf(&c.RepairUDPSource, repairs)},
		{"metrics", c.Metrics.set},
		{"log", c.Log.set},
	}
}

func (c *Config) setIgnoreInterfaces(v value) error {
	c.IgnoreInterfaces = []string{}
	if err := v.atMost(maxIgnored, "use globs"); err != nil {
		return err
	}
	return v.list(`a list of strings such as ["docker*"]`, func(item value) error {
		var name string
		if err := checked(&name, "an interface name or glob; put it into quotes", checkName)(item); err != nil {
			return err
		}
		c.IgnoreInterfaces = append(c.IgnoreInterfaces, name)
		return nil
	})
}

func (p *Policy) setAddresses(v value) error {
	return listOf(v, &p.Addresses, "a list of addresses and networks such as [198.51.100.0/28, 2001:db8:9::5]", maxAddresses, "use larger networks",
		parsedBy("an address or a network such as 198.51.100.0/28 or 2001:db8:9::5", parseServed))
}

func (p *Policy) setProtocols(v value) error {
	err := listOf(v, &p.Protocols, "a list of protocols such as [tcp, udp, icmp, icmpv6, sctp]", math.MaxInt, "", value.protocol)
	if err == nil && len(p.Protocols) == 0 {
		return v.errorf("an empty list serves nothing: list at least one of %s", protocolValues)
	}
	return err
}

func (c *Config) setFlowTable(v value) error { return v.object("a map", c.flowTableFields()) }

func (c *Config) flowTableFields() []field {
	return []field{{"max_entries", func(v value) error {
		number, err := v.integer(MinEntries, MaxEntries)
		if err == nil {
			c.MaxEntries = uint32(number)
		}
		return err
	}}}
}

func (l *Log) set(v value) error { return v.object("a map", l.fields()) }

func (l *Log) fields() []field {
	return []field{
		{"level", func(v value) error {
			var level string
			err := oneOf(&level, logLevels)(v)
			if err == nil {
				l.Level = slogLevels[slices.Index(logLevels, level)]
			}
			return err
		}},
		{"format", oneOf(&l.Format, logFormats)},
	}
}
