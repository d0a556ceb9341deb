// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// Warnings names what is allowed and yet probably not meant, one line each.
func (c *Config) Warnings() []string {
	return slices.Concat(c.gatewayWarnings(), c.ignoreWarnings(), c.excludeWarnings(), c.otherWarnings())
}

func (c *Config) gatewayWarnings() []string {
	var warnings []string
	for i, settings := range c.Interfaces {
		if settings.NextHop == NextHopLastHop && len(settings.Gateways) > 0 {
			warnings = append(warnings, fmt.Sprintf(
				"interfaces[%d].gateways: next_hop last-hop sends nothing to them: use auto or gateway if it should", i))
		}
	}
	return warnings
}

// ignoreWarnings is about a list that somebody wrote: the default one may as well
// have no effect.
func (c *Config) ignoreWarnings() []string {
	if len(c.IgnoreInterfaces) == 0 || slices.Equal(c.IgnoreInterfaces, Default().IgnoreInterfaces) {
		return nil
	}
	isGlob := func(i Interface) bool { return IsGlob(i.Name) }
	if c.Interfaces != nil && !slices.ContainsFunc(c.Interfaces, isGlob) {
		return []string{"ignore_interfaces: has no effect, as interfaces lists every managed one by its name"}
	}
	var warnings []string
	for i, pattern := range c.IgnoreInterfaces {
		switch named := slices.IndexFunc(c.Interfaces, func(i Interface) bool { return i.Name == pattern }); {
		case slices.Contains(c.IgnoreInterfaces[:i], pattern):
			warnings = append(warnings, fmt.Sprintf("ignore_interfaces[%d]: %q is listed twice", i, pattern))
		case named >= 0:
			warnings = append(warnings, fmt.Sprintf("ignore_interfaces[%d]: %q is managed all the same, as interfaces[%d] names it", i, pattern, named))
		}
	}
	return warnings
}

// excludeWarnings tells exclusions that leave nothing, and those that change
// nothing.
func (c *Config) excludeWarnings() []string {
	var warnings []string
	for i, e := range c.Exclude {
		switch by := slices.IndexFunc(c.Exclude[:i], func(before Exclusion) bool { return before.covers(e) }); {
		case by >= 0:
			warnings = append(warnings, fmt.Sprintf("exclude[%d]: has no effect, as exclude[%d] excludes all of it", i, by))
		case e.Protocol != 0 && !slices.Contains(c.Protocols, e.Protocol):
			warnings = append(warnings, fmt.Sprintf("exclude[%d].protocol: has no effect, as protocols does not list %s", i, ProtocolName(e.Protocol)))
		default:
			if family := e.family(); family != "" {
				warnings = append(warnings, fmt.Sprintf("exclude[%d]: excludes every %s flow", i, family))
			}
		}
	}
	return warnings
}

// covers tells whether e matches whatever other matches.
func (e Exclusion) covers(other Exclusion) bool {
	contains := func(a, b netip.Prefix) bool {
		return !a.IsValid() || b.IsValid() && a.Bits() <= b.Bits() && a.Contains(b.Addr())
	}
	return contains(e.Peer, other.Peer) && contains(e.Self, other.Self) &&
		(e.Protocol == 0 || e.Protocol == other.Protocol) && (e.SelfPort == 0 || e.SelfPort == other.SelfPort)
}

// family names the address family that an exclusion takes out as a whole, ""
// where it takes out less.
func (e Exclusion) family() string {
	var network netip.Prefix
	for _, p := range []netip.Prefix{e.Peer, e.Self} {
		switch {
		case p.IsValid() && p.Bits() > 0:
			return ""
		case p.IsValid():
			network = p
		}
	}
	switch {
	case e.Protocol != 0 || e.SelfPort != 0 || !network.IsValid():
		return ""
	case network.Addr().Is4():
		return "ipv4"
	}
	return "ipv6"
}

func (c *Config) otherWarnings() []string {
	var warnings []string
	if c.RepairUDPSource == RepairTrue && !slices.Contains(c.Protocols, ProtocolUDP) {
		warnings = append(warnings, "repair_udp_source: has no effect, as protocols does not list udp")
	}
	if c.Scope == ScopeAll && len(c.Addresses) > 0 {
		warnings = append(warnings, "addresses: has no effect, as scope: all serves every address")
	}
	if c.Metrics.Listen == "" && c.Metrics.WebConfigFile != "" {
		warnings = append(warnings, "metrics.web_config_file: has no effect, as metrics.listen is empty")
	}
	return warnings
}
