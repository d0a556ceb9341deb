// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"golang.org/x/sys/unix"

	"replypath/loader/admission"
	"replypath/loader/datapath"
)

// WhyNoFlow tells why a packet belongs to no flow: the verdict NoFlow, LocalOrigin
// or Excluded, and a reason where no flow would ever be recorded of what comes in by the interface of this id; 0: by any.
func (h *Host) WhyNoFlow(q *Question, by uint16) (verdict, reason string, err error) {
	exclusions, err := h.maps.exclusions(h.settings.Exclusions)
	if err != nil {
		return Excluded, "", err
	}
	rules := admission.Rules{Settings: h.settings, Exclusions: exclusions, Own: h.maps.ownFlags, Served: admission.ServedBy(h.maps.ServedAddresses), Takes: h.maps.takes}
	about := admission.Tuple{Protocol: q.Protocol, Peer: q.Peer, Self: q.Self, Interface: by}
	if rules.Excludes(&about) {
		return Excluded, "", nil
	}
	for _, started := range []func(*Question) (bool, error){h.spokeFirst, asksBySocket} {
		if yes, err := started(q); yes || err != nil {
			return LocalOrigin, "", err
		}
	}
	why, err := rules.Refusal(&about)
	return NoFlow, string(why), err
}

// isHeeded tells whether the source of a packet of no flow may decide about it: as is_heeded() in bpf/src/originate.h.
func (h *Host) isHeeded(q *Question, verdict string) (bool, error) {
	if verdict == Excluded {
		return false, nil
	}
	rules := admission.Rules{Settings: h.settings, Own: h.maps.ownFlags, Served: admission.ServedBy(h.maps.ServedAddresses), Takes: h.maps.takes}
	why, err := rules.Refusal(&admission.Tuple{Protocol: q.Protocol, Peer: q.Peer, Self: q.Self})
	return why == "", err
}

// spokeFirst tells whether the host is known to have sent first.
func (h *Host) spokeFirst(q *Question) (bool, error) {
	for _, t := range q.exact() {
		yes, err := datapath.SpokeFirst(h.maps.DatapathMaps, h.clock, h.seeds.Digest(t), t.Protocol == unix.IPPROTO_TCP)
		if yes || err != nil {
			return yes, err
		}
	}
	return false, nil
}
