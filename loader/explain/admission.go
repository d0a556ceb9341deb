package explain

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// The reasons of the metrics for not recording a flow (loader/counters/names.go).
const (
	reasonNotOwn   = "not_own"
	reasonLoopback = "loopback"
	reasonSource   = "source"
	reasonProtocol = "protocol"
)

// idleOutbound is how long it is known that the host spoke first.
const idleOutbound = time.Duration(bpf.DatapathIdleSecondsIDLE_OUTBOUND) * time.Second

func isMissing(err error) bool { return errors.Is(err, ebpf.ErrKeyNotExist) }

// refused tells why no flow of this kind is recorded, "" where one would be: as
// may_start() in bpf/src/admission.h, apart from the exclusions.
func (h *Host) refused(q *Question) (reason string, err error) {
	if q.Protocol != nil && (!isListed(&h.settings, *q.Protocol) || isDHCP(q)) {
		return reasonProtocol, nil
	}
	peer, self := q.Peer.Addr(), q.Self.Addr()
	own, err := h.ownFlags(self.As16())
	if err != nil {
		return "", err
	}
	if own == 0 && h.settings.ScopeAll == 0 {
		return reasonNotOwn, nil
	}
	if own&bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY != 0 && h.settings.Loopback == 0 {
		return reasonLoopback, nil
	}
	ownPeer, err := h.ownFlags(peer.As16())
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

// excluded tells whether the configuration excludes every flow that is asked
// about: as is_excluded() in bpf/src/admission.h.
func (h *Host) excluded(q *Question) (bool, error) {
	rules, err := h.exclusions()
	if err != nil {
		return false, err
	}
	for i := range rules {
		r := &rules[i]
		if (r.Protocol == 0 || q.Protocol != nil && *q.Protocol == r.Protocol) &&
			(r.SelfPort == 0 || datapath.Port(q.Self.Port()) == r.SelfPort) &&
			isMasked(q.Peer.Addr(), r.Peer, r.PeerMask) && isMasked(q.Self.Addr(), r.Self, r.SelfMask) {
			return true, nil
		}
	}
	return false, nil
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
