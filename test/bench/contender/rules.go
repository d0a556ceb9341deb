// SPDX-License-Identifier: Apache-2.0

package contender

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"

	"replypath/test/topology"
)

// table is the routing table of answers from eth1.
const table = 101

// nothing has nothing to take away.
type nothing struct{}

// Stop does nothing.
func (nothing) Stop() error { return nil }

func setUpNothing(context.Context, *Site, Options) (Running, error) { return nothing{}, nil }

func setUpStatic(_ context.Context, s *Site, _ Options) (Running, error) {
	return nothing{}, s.Server.AddRoute(topology.Route{Destination: s.peers, Via: s.gateway})
}

// rules is a contender with so many rules "from ADDRESS lookup TABLE". The last one
// is for the address that is asked: a host has as many addresses as rules.
func rules(count int) *Contender {
	return &Contender{
		Name:  fmt.Sprintf("iprule-%d", count),
		About: fmt.Sprintf("%d rules by source address, of which the last matches", count),
		setUp: func(_ context.Context, s *Site, _ Options) (Running, error) {
			return nothing{}, addRules(s, count)
		},
	}
}

func addRules(s *Site, count int) error {
	if err := addTable(s); err != nil {
		return err
	}
	const firstPriority = 1000
	for i := range count {
		from := s.Self
		if i < count-1 {
			from = at(s.rules, uint32(i))
		}
		rule := netlink.NewRule()
		rule.Priority, rule.Table = firstPriority+i, table
		rule.Src = netlink.NewIPNet(from.AsSlice())
		if err := s.Server.Netlink().RuleAdd(rule); err != nil {
			return fmt.Errorf("add rule %d: %w", i, err)
		}
	}
	return nil
}

func addTable(s *Site) error {
	return s.Server.AddRoute(topology.Route{Via: s.gateway, Interface: s.Eth1.Name, Table: table})
}
