// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"replypath/loader/admission"
	"replypath/loader/config"
	"replypath/loader/flows"
	"replypath/loader/hostmaps"
)

// flushUnserved forgets the flows that the configuration in force would not have
// recorded. That it cannot is logged: the configuration is in force all the same.
func (l *core) flushUnserved() {
	flushed, err := caught(l.log, func() (int, error) { return flushRefused(l.options.PinDir, l.maps) })
	if flushed > 0 {
		l.log.Info("flows forgotten that the configuration does not serve", "flows", flushed)
	}
	if err != nil {
		l.log.Error("flows that are not served any more are kept", "error", fmt.Errorf("forget flows that are not served: %w", err))
	}
}

func flushRefused(pinDir string, maps *hostmaps.Maps) (flushed int, err error) {
	rules, err := maps.Admission()
	if err != nil {
		return 0, err
	}
	table, err := flows.Open(pinDir)
	if err != nil {
		return 0, err
	}
	all, err := table.Flush(flows.Filter{Func: func(f *flows.Flow) bool { return !isServed(rules, f) }})
	return all.Flows, errors.Join(err, table.Close())
}

// isServed tells whether a flow would be recorded by an interface that is there. What cannot be told is left.
func isServed(rules *admission.Rules, f *flows.Flow) bool {
	protocol, protocolErr := config.Protocol(f.Protocol)
	peer, peerErr := netip.ParseAddr(f.Peer)
	self, selfErr := netip.ParseAddr(f.Self)
	if errors.Join(protocolErr, peerErr, selfErr) != nil {
		return true
	}
	t := admission.Tuple{
		Protocol: protocol, Peer: netip.AddrPortFrom(peer, f.PeerPort), Self: netip.AddrPortFrom(self, f.SelfPort), Interface: f.InterfaceID,
	}
	isRecorded, err := rules.Records(&t)
	return err != nil || f.Interface != nil && isRecorded
}
