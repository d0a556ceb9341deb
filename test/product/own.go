// SPDX-License-Identifier: Apache-2.0

package product

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/test/await"
	"replypath/test/topology"
)

// AwaitOwn returns how long after a moment the programs know that an address is the host's, or that it is not any more.
func (p *Product) AwaitOwn(address netip.Addr, own bool, since time.Time) time.Duration {
	p.t.Helper()
	maps := await.Must1[*bpf.DatapathMaps](p.t)(datapath.OpenMaps(p.PinDir))
	defer maps.Close()
	await.Eventually(p.t, fmt.Sprintf("%s is the host's: %t", address, own), func() error {
		var flags uint32
		err := maps.OwnAddresses.Lookup(bpf.DatapathAddress{Bytes: address.As16()}, &flags)
		if (err == nil) != own {
			return fmt.Errorf("flags %d, error %v", flags, err)
		}
		return nil
	})
	return time.Since(since)
}

// AwaitAddress returns when an interface has an address, or has it no more.
func AwaitAddress(t testing.TB, i *topology.Interface, address netip.Addr, there bool) time.Time {
	t.Helper()
	await.Eventually(t, fmt.Sprintf("%s has %s: %t", i.Name, address, there), func() error {
		link := await.Must1[netlink.Link](t)(i.Link())
		list := await.Must1[[]netlink.Addr](t)(i.Host.Netlink().AddrList(link, netlink.FAMILY_ALL))
		has := slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.IP.Equal(address.AsSlice()) })
		if has != there {
			return fmt.Errorf("it has %v", list)
		}
		return nil
	})
	return time.Now()
}
