package explain

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// idleOutbound is how long it is known that the host spoke first.
const idleOutbound = time.Duration(bpf.DatapathIdleSecondsIDLE_OUTBOUND) * time.Second

// WhyNoFlow tells why a packet belongs to no flow: the verdict NoFlow, LocalOrigin
// or Excluded, and a reason where no flow would ever be recorded.
func (h *Host) WhyNoFlow(q *Question) (verdict, reason string, err error) {
	rules, err := h.maps.exclusions(h.settings.Exclusions)
	if isExcluded(rules, q) || err != nil {
		return Excluded, "", err
	}
	for _, started := range []func(*Question) (bool, error){h.spokeFirst, asksBySocket} {
		if yes, err := started(q); yes || err != nil {
			return LocalOrigin, "", err
		}
	}
	reason, err = h.refused(q)
	return NoFlow, reason, err
}

// spokeFirst tells whether the host is known to have sent first: as
// accept_answer() in bpf/src/outbound.h. Whether the note predates the attachment to the interface by
// which the next question comes is not known.
func (h *Host) spokeFirst(q *Question) (bool, error) {
	for _, t := range q.exact() {
		sent, found, err := datapath.FindOutbound(h.maps.Outbound, h.seeds.Digest(t))
		if err != nil {
			return false, err
		}
		if found && h.clock.Since(sent) <= idleOutbound {
			return true, nil
		}
	}
	return false, nil
}

// refused tells why no flow of this kind is recorded, "" where one would be: as
// may_start() in bpf/src/admission.h, apart from the exclusions.
func (h *Host) refused(q *Question) (reason string, err error) {
	if q.Protocol != nil && (!isListed(&h.settings, *q.Protocol) || isDHCP(q)) {
		return reasonProtocol, nil
	}
	peer, self := q.Peer.Addr(), q.Self.Addr()
	own, err := h.maps.ownFlags(self)
	if err != nil {
		return "", err
	}
	if own == 0 && h.settings.ScopeAll == 0 {
		return reasonNotOwn, nil
	}
	if own&bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY != 0 && h.settings.Loopback == 0 {
		return reasonLoopback, nil
	}
	ownPeer, err := h.maps.ownFlags(peer)
	if err != nil {
		return "", err
	}
	if !peer.IsGlobalUnicast() || !self.IsGlobalUnicast() || ownPeer != 0 { // address_is_ordinary() in bpf/src/address.h
		return reasonSource, nil
	}
	return "", nil
}

func isListed(settings *bpf.DatapathSettings, protocol uint8) bool {
	return settings.Protocols[protocol/8]&(1<<(protocol%8)) != 0
}

// isDHCP is is_dhcp() in bpf/src/admission.h.
func isDHCP(q *Question) bool {
	switch q.Self.Port() {
	case 67, 68, 546, 547:
		return *q.Protocol == unix.IPPROTO_UDP
	}
	return false
}

// isExcluded tells whether rules exclude every flow that is asked about: as
// is_excluded() in bpf/src/admission.h.
func isExcluded(rules []bpf.DatapathExclusion, q *Question) bool {
	for i := range rules {
		r := &rules[i]
		if (r.Protocol == 0 || q.Protocol != nil && *q.Protocol == r.Protocol) &&
			(r.SelfPort == 0 || datapath.Port(q.Self.Port()) == r.SelfPort) &&
			isMasked(q.Peer.Addr(), r.Peer, r.PeerMask) && isMasked(q.Self.Addr(), r.Self, r.SelfMask) {
			return true
		}
	}
	return false
}

func isMasked(a netip.Addr, want, mask [2]uint64) bool {
	bytes := a.As16()
	for i := range want {
		if binary.NativeEndian.Uint64(bytes[8*i:])&mask[i] != want[i] {
			return false
		}
	}
	return true
}
