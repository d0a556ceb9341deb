// SPDX-License-Identifier: Apache-2.0

package detach

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/kernelroute"
)

// warn names the own addresses whose replies leave elsewhere once the datapath is gone: those of interfaces that enforce, by
// which no rule and no default route sends. What cannot be told is no reason to stop.
func (d *detacher) warn() {
	enforced, err := d.enforced()
	var host *kernelroute.Host
	if err == nil && len(enforced) > 0 {
		host, err = kernelroute.ReadHost(d.netlink)
	}
	if err != nil {
		d.log.Debug("by which interfaces replies leave then is not known", "error", err)
		return
	}
	for _, index := range enforced {
		if stray := straysOf(host, index); len(stray) > 0 {
			name := host.Names[index]
			d.log.Warn(fmt.Sprintf("replies from addresses of %s to peers beyond its networks go elsewhere now: no rule and no default route sends them by %s",
				name, name), "addresses", stray)
		}
	}
}

// enforced are the interfaces by which replies are sent, in the modes that are in force.
func (d *detacher) enforced() (indexes []int, err error) {
	opened, err := datapath.OpenMaps(d.dir.Path())
	if err != nil {
		return nil, err
	}
	defer opened.Close() // it was only read
	byHand, err := datapath.ReadMode(opened)
	for _, r := range d.journal.Interfaces {
		if r.Index != 0 && !r.Catches && datapath.ModeInForce(byHand, r.Mode) == string(config.ModeEnforce) {
			indexes = append(indexes, r.Index)
		}
	}
	return indexes, err
}

// straysOf are the addresses that an interface alone has and by which the kernel sends elsewhere, or nowhere, sorted. Of one that
// is down there are none.
func straysOf(h *kernelroute.Host, index int) (stray []netip.Addr) {
	for _, link := range h.Links {
		if link.Attrs().Index != index || link.Attrs().Flags&net.FlagUp == 0 {
			continue
		}
		for self, of := range h.Own {
			packet := kernelroute.Packet{
				Peer: netip.AddrPortFrom(kernelroute.Beyond[self.Is4()], 0), Self: netip.AddrPortFrom(self, 0), Device: h.VRFs[link.Attrs().Name],
			}
			if of != index || !self.IsGlobalUnicast() {
				continue
			}
			if by := h.Leads(packet); by != "" && by != link.Attrs().Name {
				stray = append(stray, self)
			}
		}
	}
	slices.SortFunc(stray, netip.Addr.Compare)
	return stray
}
