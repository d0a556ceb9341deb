// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"math/bits"
	"slices"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/config"
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

// Ignored is why a packet started no flow which raised these events, a bit for each; "" where none of them tells.
func Ignored(raised uint64) string { return reasonOf(ignoredReasons, raised) }

// Refused is why a flow did not follow such a packet.
func Refused(raised uint64) string { return reasonOf(refusedReasons, raised) }

func reasonOf(reasons []cause[bpf.DatapathEvent], raised uint64) string {
	for ; raised != 0; raised &= raised - 1 {
		if reason := nameOf(reasons, bpf.DatapathEvent(bits.TrailingZeros64(raised))); reason != "" {
			return reason
		}
	}
	return ""
}

// OutcomesOf are those for which such packets left wrongly.
func OutcomesOf(reason string) (list []bpf.DatapathOutcome) {
	for _, r := range replyReasons {
		if r.name == reason {
			list = append(list, r.of)
		}
	}
	if reason == ReasonLost {
		for _, r := range lostReasons {
			list = append(list, r.of)
		}
	}
	return list
}

// UncorrectedReason is why a packet was not moved, "" of one that was.
func UncorrectedReason(outcome bpf.DatapathOutcome) string { return nameOf(replyReasons, outcome) }

// UncorrectedReasons are those for which a packet may go on as the kernel sent it.
func UncorrectedReasons() (list []string) {
	for _, r := range replyReasons {
		list = append(list, r.name)
	}
	return list
}

// Hook is a place where a program belongs.
type Hook struct {
	Name      string // "ingress" or "egress"
	Mechanism string // "tcx" or "clsact"; empty where nothing is attached
	Attached  bool
}

// Hooks are those of an interface.
type Hooks []Hook

// Lack tells whether a program is missing.
func (h Hooks) Lack() bool { return slices.ContainsFunc(h, func(h Hook) bool { return !h.Attached }) }

// MissingHooks are those of an interface that does not exist.
func MissingHooks() Hooks {
	hooks := make(Hooks, len(attach.Directions))
	for i, direction := range attach.Directions {
		hooks[i].Name = string(direction)
	}
	return hooks
}

// ReadHooks looks at what is attached to an interface, which may be one that only catches replies, ingress first.
func ReadHooks(attacher attach.Means, target attach.Interface, catches bool) (Hooks, error) {
	var hooks Hooks
	for _, direction := range attach.Hooks(catches) {
		mechanism, attached, err := attacher.Attached(target, direction)
		if err != nil {
			return nil, err
		}
		hooks = append(hooks, Hook{Name: string(direction), Mechanism: string(mechanism), Attached: attached})
	}
	return hooks, nil
}
