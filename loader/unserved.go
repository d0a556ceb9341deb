package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/flows"
	"replypath/loader/hostmaps"
)

// flushUnserved forgets the flows that the configuration in force would not have
// recorded. That it cannot is logged: the configuration is in force all the same.
func (l *core) flushUnserved() {
	a := admission{l.config, l.maps}
	flushed, err := flush(l.options.PinDir, flows.Filter{Func: func(f *flows.Flow) bool { return !a.serves(f) }})
	if flushed > 0 {
		l.log.Info("flows forgotten that the configuration does not serve", "flows", flushed)
	}
	if err != nil {
		l.log.Error("flows that are not served any more are kept", "error", fmt.Errorf("forget flows that are not served: %w", err))
	}
}

func flush(pinDir string, which flows.Filter) (flushed int, err error) {
	table, err := flows.Open(pinDir)
	if err != nil {
		return 0, err
	}
	flushed, err = table.Flush(which)
	return flushed, errors.Join(err, table.Close())
}

// admission decides as bpf/src/admission.h does.
type admission struct {
	config *config.Config
	maps   *hostmaps.Maps
}

// serves tells whether a flow would be recorded.
func (a admission) serves(f *flows.Flow) bool {
	protocol, protocolErr := config.Protocol(f.Protocol)
	peer, peerErr := netip.ParseAddr(f.Peer)
	self, selfErr := netip.ParseAddr(f.Self)
	if errors.Join(protocolErr, peerErr, selfErr) != nil {
		return true // what cannot be told is left
	}
	return f.Interface != nil &&
		slices.Contains(a.config.Protocols, protocol) &&
		a.servesAddress(self) &&
		!slices.ContainsFunc(a.config.Exclude, func(e config.Exclusion) bool {
			return (e.Protocol == 0 || e.Protocol == protocol) &&
				(e.SelfPort == 0 || e.SelfPort == f.SelfPort) &&
				matches(e.Peer, peer) && matches(e.Self, self)
		})
}

// servesAddress mirrors what refusal() in bpf/src/admission.h asks of an own address.
func (a admission) servesAddress(self netip.Addr) bool {
	flags, own := a.maps.Own.Get(bpf.DatapathAddress{Bytes: self.As16()})
	if !own {
		return a.config.Scope == config.ScopeAll
	}
	onlyLoopback := flags&uint32(bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY) != 0
	return !onlyLoopback || a.config.LoopbackAddresses == config.LoopbackSymmetric
}

// matches tells whether a prefix that may be left out matches.
func matches(p netip.Prefix, a netip.Addr) bool { return !p.IsValid() || p.Contains(a) }
