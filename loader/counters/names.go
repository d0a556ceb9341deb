// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"maps"
	"math/bits"
	"slices"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/flows"
	"replypath/metrics"
)

// protocolNames are how the metrics name the classes of protocols.
var protocolNames = map[bpf.DatapathProtocolClass]string{
	bpf.DatapathProtocolClassCLASS_OTHER:  "other",
	bpf.DatapathProtocolClassCLASS_TCP:    config.ProtocolName(config.ProtocolTCP),
	bpf.DatapathProtocolClassCLASS_UDP:    config.ProtocolName(config.ProtocolUDP),
	bpf.DatapathProtocolClassCLASS_ICMP:   config.ProtocolName(config.ProtocolICMP),
	bpf.DatapathProtocolClassCLASS_ICMPV6: config.ProtocolName(config.ProtocolICMPv6),
	bpf.DatapathProtocolClassCLASS_SCTP:   config.ProtocolName(config.ProtocolSCTP),
}

var unparsedReasons = map[bpf.DatapathEvent]string{
	bpf.DatapathEventEVENT_UNPARSED_TRUNCATED:         "truncated",
	bpf.DatapathEventEVENT_UNPARSED_MALFORMED:         "malformed",
	bpf.DatapathEventEVENT_UNPARSED_EXTENSION_HEADERS: "extension_headers",
	bpf.DatapathEventEVENT_UNPARSED_FRAGMENT:          "fragment",
	bpf.DatapathEventEVENT_UNPARSED_SOURCE_ROUTE:      "source_route",
}

var ignoredReasons = map[bpf.DatapathEvent]string{
	bpf.DatapathEventEVENT_IGNORED_NOT_OWN:   "not_own",
	bpf.DatapathEventEVENT_IGNORED_SOURCE:    "source",
	bpf.DatapathEventEVENT_IGNORED_LOOPBACK:  "loopback",
	bpf.DatapathEventEVENT_IGNORED_EXCLUDED:  "excluded",
	bpf.DatapathEventEVENT_IGNORED_PROTOCOL:  "protocol",
	bpf.DatapathEventEVENT_IGNORED_IPSEC:     "ipsec",
	bpf.DatapathEventEVENT_IGNORED_INTERFACE: "interface",
	bpf.DatapathEventEVENT_IGNORED_MAC:       "mac",
	bpf.DatapathEventEVENT_IGNORED_ANSWER:    "answer",
	bpf.DatapathEventEVENT_IGNORED_HANDSHAKE: "handshake",
	bpf.DatapathEventEVENT_IGNORED_SEGMENT:   "segment",
	bpf.DatapathEventEVENT_IGNORED_NO_SOCKET: "no_socket",
	bpf.DatapathEventEVENT_IGNORED_TUNNEL:    "tunnel",
}

var refusedReasons = map[bpf.DatapathEvent]string{
	bpf.DatapathEventEVENT_REFUSED_PINNED:    "pinned",
	bpf.DatapathEventEVENT_REFUSED_CONTESTED: "contested",
}

// learntWays are the verdicts of what goes by a way that a handshake taught, and "rule".
var learntWays = map[bpf.DatapathEvent]string{
	bpf.DatapathEventEVENT_LEARNT_RULE:      flows.WayRule,
	bpf.DatapathEventEVENT_LEARNT_LAST_HOP:  flows.WayLastHop,
	bpf.DatapathEventEVENT_LEARNT_AS_ROUTED: flows.WayDirectReturn,
}

// Ignored is why a packet started no flow which raised these events, a bit for each; "" where none of them tells.
func Ignored(raised uint64) string { return reasonOf(ignoredReasons, raised) }

// Refused is why a flow did not follow such a packet.
func Refused(raised uint64) string { return reasonOf(refusedReasons, raised) }

func reasonOf(reasons map[bpf.DatapathEvent]string, raised uint64) string {
	for ; raised != 0; raised &= raised - 1 {
		if reason := reasons[bpf.DatapathEvent(bits.TrailingZeros64(raised))]; reason != "" {
			return reason
		}
	}
	return ""
}

// uncorrectedReasons are the outcomes other than asymmetric and corrected.
var uncorrectedReasons = map[bpf.DatapathOutcome]string{
	bpf.DatapathOutcomeOUTCOME_LINK_DOWN:      "link_down",
	bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP:    "no_next_hop",
	bpf.DatapathOutcomeOUTCOME_MTU:            "mtu",
	bpf.DatapathOutcomeOUTCOME_NO_HEADER_ROOM: "no_header_room",
	bpf.DatapathOutcomeOUTCOME_OBSERVE:        "observe",
	bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE:   "bound_device",
	bpf.DatapathOutcomeOUTCOME_REWRITE_FAILED: "rewrite_failed",
	bpf.DatapathOutcomeOUTCOME_UNNAMED_TUNNEL: "unnamed_tunnel",
}

// OutcomesOf are those for which such packets left wrongly.
func OutcomesOf(reason string) (list []bpf.DatapathOutcome) {
	for outcome, name := range uncorrectedReasons {
		if name == reason {
			list = append(list, outcome)
		}
	}
	if reason == ReasonLost {
		list = slices.Collect(maps.Keys(lostReasons))
	}
	return list
}

// UncorrectedReason is why a packet was not moved.
func UncorrectedReason(outcome bpf.DatapathOutcome) string { return uncorrectedReasons[outcome] }

// lostReasons are the outcomes of packets that were redirected and never seen leaving.
var lostReasons = map[bpf.DatapathOutcome]string{
	bpf.DatapathOutcomeOUTCOME_LOST:           "unseen",
	bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN: "link_down",
}

// originatedReason is why a packet that the host originates goes as routed, empty for one that is moved.
func originatedReason(outcome bpf.DatapathOutcome) string {
	if outcome == bpf.DatapathOutcomeOUTCOME_WEAK_HOST {
		return "weak_host"
	}
	return uncorrectedReasons[outcome]
}

// UncorrectedReasons are those for which a packet may go on as the kernel sent it.
func UncorrectedReasons() []string { return slices.Sorted(maps.Values(uncorrectedReasons)) }

// MissingHooks are those of an interface that does not exist.
func MissingHooks() []metrics.Hook {
	hooks := make([]metrics.Hook, len(attach.Directions))
	for i, direction := range attach.Directions {
		hooks[i].Name = string(direction)
	}
	return hooks
}

// ReadHooks looks at what is attached to an interface, which may be one that only catches replies, ingress first.
func ReadHooks(attacher attach.Means, target attach.Interface, catches bool) ([]metrics.Hook, error) {
	var hooks []metrics.Hook
	for _, direction := range attach.Hooks(catches) {
		mechanism, attached, err := attacher.Attached(target, direction)
		if err != nil {
			return nil, err
		}
		hooks = append(hooks, metrics.Hook{Name: string(direction), Mechanism: string(mechanism), Attached: attached})
	}
	return hooks, nil
}
