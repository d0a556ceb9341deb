// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// rule says what a key of the file takes, or an item of a list.
type rule struct {
	read   func(*yaml.Node) (any, error) // makes the value; of a map that may be a scalar too, that of the scalar
	want   string                        // describes the list or map; "" for a value
	most   int                           // items that the list may have
	remedy string                        // what to do where it has more
	once   bool                          // an item may not come twice
	empty  string                        // what is wrong with an empty list; "" where nothing is
}

// rules are those of every key but the maps whose keys say it all: [] stands for every item of a list. The programs
// know 4096 interfaces.
var rules = map[string]rule{
	"interfaces": {want: "a list of interfaces such as [{name: eth1}]", most: 4096, remedy: "use globs", once: true,
		empty: "manages nothing: list interfaces, or leave the key out to have them found"},
	"interfaces[].name": {read: checked(`an interface name, alternative name or glob such as eth1 or "eth*"; put it into quotes`,
		CheckInterfaceName)},
	"interfaces[].mode":       {read: oneOf(ModeEnforce, ModeObserve)},
	"interfaces[].next_hop":   {read: oneOf(NextHopAuto, NextHopGateway, NextHopLastHop)},
	"interfaces[].host_model": {read: oneOf(HostModelWeak, HostModelStrong)},
	"interfaces[].gateways": {want: "a list of addresses such as [10.4.0.1]", most: 256, remedy: "list those that are there", once: true,
		empty: "names no gateway: list some, or leave the key out to have them found in the routing tables"},
	"interfaces[].gateways[]": {read: parsed("an address such as 10.4.0.1 or fe80::1", parseGateway)},
	"ignore_interfaces":       {want: `a list of strings such as ["docker*"]`, most: 4096, remedy: "use globs"},
	"ignore_interfaces[]":     {read: checked("an interface name or glob; put it into quotes", checkName)},
	"mode":                    {read: oneOf(ModeEnforce, ModeObserve)},
	"follow":                  {read: oneOf(FollowPinned, FollowLatest, FollowValidated)},
	"scope":                   {read: oneOf(ScopeLocal, ScopeAll)},
	"host_model":              {read: oneOf(HostModelWeak, HostModelStrong)},
	"related":                 {read: boolean},
	"addresses": {want: "a list of addresses and networks such as [198.51.100.0/28, 2001:db8:9::5]", most: 1024,
		remedy: "use larger networks", once: true},
	"addresses[]":        {read: parsed("an address or a network such as 198.51.100.0/28 or 2001:db8:9::5", parseServed)},
	"loopback_addresses": {read: oneOf(LoopbackKernel, LoopbackSymmetric)},
	"exclude": {want: "a list of networks and maps such as [192.0.2.0/24, {protocol: udp, self_port: 51820}]", most: MaxExclusions,
		remedy: "use larger networks"},
	"exclude[]":           {want: "a network or a map", read: parsed(wantNetwork, parsePeer)},
	"exclude[].peer":      {read: parsed(wantNetwork, parsePrefix)},
	"exclude[].self":      {read: parsed(wantNetwork, parsePrefix)},
	"exclude[].protocol":  {read: protocol},
	"exclude[].self_port": {read: integer[uint16](1, 65535)},
	"protocols": {want: "a list of protocols such as [tcp, udp, icmp, icmpv6, sctp]", most: 256, remedy: "list each once", once: true,
		empty: "serves nothing: list at least one of " + protocolValues},
	"protocols[]":             {read: protocol},
	"flow_table.max_entries":  {read: integer[uint32](MinEntries, MaxEntries)},
	"fallback_route":          {read: boolean},
	"manage_rp_filter":        {read: boolean},
	"repair_udp_source":       {read: oneOf(RepairAuto, RepairTrue, RepairFalse)},
	"metrics.listen":          {read: checked(`an address such as "127.0.0.1:9945"`, checkListen)},
	"metrics.web_config_file": {read: checked(`the absolute path of a file, or ""`, checkPath)},
	"log.level":               {read: level},
	"log.format":              {read: oneOf(FormatText, FormatJSON)},
}

const wantNetwork = "a network or an address such as 192.0.2.0/24 or 2001:db8::1"

// parsed reads a string; want describes the string.
func parsed[T any](want string, parse func(text string) (T, error)) func(*yaml.Node) (any, error) {
	return func(node *yaml.Node) (any, error) {
		if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!str" {
			return nil, fmt.Errorf("%s is not %s", describe(node), want)
		}
		return parse(node.Value)
	}
}

// checked reads a string that check has no error for.
func checked(want string, check func(text string) error) func(*yaml.Node) (any, error) {
	return parsed(want, func(text string) (string, error) { return text, check(text) })
}

// oneOf reads one of a few words. YAML's own true and false may be among them.
func oneOf[T ~string](allowed ...T) func(*yaml.Node) (any, error) {
	return func(node *yaml.Node) (any, error) {
		if node.Kind != yaml.ScalarNode || !slices.Contains(allowed, T(node.Value)) {
			words := strings.ReplaceAll(strings.Trim(fmt.Sprint(allowed), "[]"), " ", ", ")
			return nil, fmt.Errorf("%s is not one of %s", describe(node), words)
		}
		return T(node.Value), nil
	}
}

func boolean(node *yaml.Node) (any, error) {
	var set bool
	if node.ShortTag() != "!!bool" || node.Decode(&set) != nil {
		return nil, fmt.Errorf("%s is not one of true, false", describe(node))
	}
	return set, nil
}

// integer reads a whole number from low to high.
func integer[T uint16 | uint32](low, high T) func(*yaml.Node) (any, error) {
	return func(node *yaml.Node) (any, error) {
		var number T
		if node.ShortTag() != "!!int" || node.Decode(&number) != nil || number < low || number > high {
			return nil, fmt.Errorf("%s is not a whole number from %d to %d", describe(node), low, high)
		}
		return number, nil
	}
}

func level(node *yaml.Node) (any, error) {
	word, err := oneOf("debug", "info", "warn", "error")(node)
	if err != nil {
		return nil, err
	}
	var level slog.Level
	return level, level.UnmarshalText([]byte(word.(string)))
}

// protocol reads the name or number of a protocol that can carry a flow. 6 and "6" mean the same.
func protocol(node *yaml.Node) (any, error) {
	if node.Kind != yaml.ScalarNode || isNull(node) {
		return nil, fmt.Errorf("%s is not a protocol: use one of %s", describe(node), protocolValues)
	}
	number, err := Protocol(node.Value)
	if err == nil && slices.Contains(extensionHeaders, number) {
		err = fmt.Errorf("%d is an ipv6 extension header: use one of %s", number, protocolValues)
	}
	return number, err
}

// describe names a value in an error message: strings in quotes, other scalars bare, so that 5 and "5" differ.
func describe(node *yaml.Node) string {
	switch {
	case node.Kind == yaml.MappingNode:
		return "a map"
	case node.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(node):
		return "an empty value"
	case node.ShortTag() == "!!str":
		return quote(node.Value)
	}
	return strings.Trim(quote(node.Value), `"`)
}

// isNull tells a key without a value, which counts as absent.
func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" }

// quote puts foreign text into quotes, escaped to stay on one line and short
// enough to be read.
func quote(text string) string {
	const longest = 60
	if runes := []rune(text); len(runes) > longest {
		text = string(runes[:longest]) + "..."
	}
	return strconv.Quote(text)
}
