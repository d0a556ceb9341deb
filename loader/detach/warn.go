// SPDX-License-Identifier: Apache-2.0

package detach

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/kernelroute"
	"replypath/loader/pins"
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
	}
	if host == nil {
		return
	}
	for _, r := range enforced {
		stray := straysOf(host, r)
		for _, by := range slices.Sorted(maps.Keys(stray)) {
			where := "leave by " + by
			if by == kernelroute.None || by == kernelroute.Refused {
				where = "have no route"
			}
			d.log.Warn(fmt.Sprintf("replies from addresses of %s to peers beyond its networks %s now: no rule and no default route sends them by %s",
				r.Name, where, r.Name), "addresses", shorten(stray[by]))
		}
	}
}

// enforced are the interfaces by which replies are sent, in the modes that are in force.
func (d *detacher) enforced() (list []pins.InterfaceRecord, err error) {
	opened, err := datapath.OpenMaps(d.dir.Path())
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	byHand, err := datapath.ReadMode(opened)
	if err != nil {
		return nil, err
	}
	for _, r := range d.journal.Interfaces {
		if r.Index != 0 && !r.Catches && datapath.ModeInForce(byHand, r.Mode) == string(config.ModeEnforce) {
			list = append(list, r)
		}
	}
	return list, nil
}

// straysOf are the addresses that an interface alone has and by which replies leave elsewhere, by where. Of one that is down there
// are none.
func straysOf(h *kernelroute.Host, r pins.InterfaceRecord) map[string][]netip.Addr {
	stray := map[string][]netip.Addr{}
	isUp := false
	for _, link := range h.Links {
		isUp = isUp || link.Attrs().Index == r.Index && link.Attrs().Flags&net.FlagUp != 0
	}
	for self, index := range h.Own {
		if !isUp || index != r.Index || !self.IsGlobalUnicast() {
			continue
		}
		by := h.Leads(kernelroute.Packet{
			Peer: netip.AddrPortFrom(kernelroute.Beyond[self.Is4()], 0), Self: netip.AddrPortFrom(self, 0), Device: h.VRFs[r.Name],
		})
		if by != "" && by != h.Names[r.Index] {
			stray[by] = append(stray[by], self)
		}
	}
	return stray
}

// mostNamed bounds the addresses of a line.
const mostNamed = 8

func shorten(addresses []netip.Addr) string {
	slices.SortFunc(addresses, netip.Addr.Compare)
	var names []string
	for _, a := range addresses[:min(len(addresses), mostNamed)] {
		names = append(names, a.String())
	}
	if more := len(addresses) - mostNamed; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}
