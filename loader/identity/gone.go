// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"slices"

	"replypath/bpf"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/flows"
	"replypath/loader/pins"
)

// mostGone is how many records of what is gone stay in any case: programs may be about to count, or to send, by their ids.
const mostGone = 16

// Gone bounds the records of interfaces and gateways that are gone. The zero value is ready for use.
type Gone struct{ stayed int } // records, when they were looked through last

// Drop drops from a journal the records of what is gone that neither counters nor flows name, and what handshakes by such
// interfaces taught. To look through those takes
// time: it is done once there are many more records than stayed the last time.
func (g *Gone) Drop(j *pins.Journal, d *datapath.Datapath) error {
	if len(j.Interfaces)+len(j.Gateways) <= 2*max(g.stayed, 2*mostGone) {
		return nil
	}
	interfaces, gateways := make(map[uint16]bool), make(map[uint16]bool)
	pairs, err := counters.ReadPairs(&d.Maps)
	if err != nil {
		return err
	}
	for pair := range pairs {
		interfaces[pair.From], interfaces[pair.To] = true, true
	}
	clock, err := d.Clock()
	if err != nil {
		return err
	}
	named := func(f *bpf.DatapathFlow, _ string) { interfaces[f.Interface], gateways[f.Gateway] = true, true }
	if _, err := flows.Usage(&d.Maps, clock, nil, named); err != nil {
		return err
	}
	keptInterfaces := dropGone(j.Interfaces, func(r pins.InterfaceRecord) bool { return r.Index != 0 || interfaces[r.ID] })
	_, err = flows.ForgetSenders(&d.Maps, func(s bpf.DatapathSender) bool {
		return !slices.ContainsFunc(keptInterfaces, func(r pins.InterfaceRecord) bool { return r.ID == s.Interface })
	})
	if err != nil {
		return err // an id without a record is free, and who gets it would inherit
	}
	j.Interfaces = keptInterfaces
	j.Gateways = dropGone(j.Gateways, func(r pins.GatewayRecord) bool { return !r.Gone || gateways[r.ID] })
	g.stayed = len(j.Interfaces) + len(j.Gateways)
	return nil
}

// dropGone returns the records without the first of those that are not needed. The last ones stay.
func dropGone[R any](records []R, isNeeded func(R) bool) []R {
	spare := -mostGone
	for _, r := range records {
		if !isNeeded(r) {
			spare++
		}
	}
	return slices.DeleteFunc(slices.Clone(records), func(r R) bool {
		if isNeeded(r) || spare <= 0 {
			return false
		}
		spare--
		return true
	})
}

// NextID returns an id below an end for another record: the one after that which was given last, among those that are not taken,
// so that each is given again as late as can be. Where all are taken it is that of the first record of what is gone, which is
// dropped then; 0 where there is none.
func NextID[R any](records *[]R, end uint32, idOf func(R) (id uint16, isGone bool)) (id uint16, dropped bool) {
	given := make(map[uint16]bool)
	for _, r := range *records {
		id, _ = idOf(r)
		given[id] = true
	}
	for range end - 1 {
		if id++; uint32(id) >= end {
			id = 1
		}
		if !given[id] {
			return id, false
		}
	}
	for n, r := range *records {
		if id, isGone := idOf(r); isGone {
			*records = slices.Delete(*records, n, n+1)
			return id, true
		}
	}
	return 0, false
}
