// SPDX-License-Identifier: Apache-2.0

package contender

import (
	"context"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"

	"replypath/test/topology"
)

// mark is that of connections which came in by eth1.
const mark = 2

// linearTable has a rule for each interface and each mark, as most write it.
const linearTable = `
table inet replymark {
	chain prerouting {
		type filter hook prerouting priority mangle
		iifname "eth0" ct state new ct mark set 1
		iifname "eth1" ct state new ct mark set 2
	}
	chain output {
		type route hook output priority mangle
		ct direction reply ct mark 1 meta mark set 1
		ct direction reply ct mark 2 meta mark set 2
	}
}
`

// mapTable looks both up, however many interfaces there are.
const mapTable = `
table inet replymark {
	chain new {
		ct mark set iifname map { "eth0" : 1, "eth1" : 2 }
	}
	chain reply {
		meta mark set ct mark
	}
	chain prerouting {
		type filter hook prerouting priority mangle
		ct state vmap { new : jump new }
	}
	chain output {
		type route hook output priority mangle
		ct direction vmap { reply : jump reply }
	}
}
`

func connmark(name, about, nft string) *Contender {
	return &Contender{
		Name: name, About: about, conntrack: true,
		setUp: func(ctx context.Context, s *Site, _ Options) (Running, error) {
			return nothing{}, addMarks(ctx, s, nft)
		},
	}
}

func addMarks(ctx context.Context, s *Site, nft string) error {
	if err := addTable(s); err != nil {
		return err
	}
	rule := netlink.NewRule()
	rule.Mark, rule.Table, rule.Family = mark, table, netlink.FAMILY_V4
	if s.Family == topology.IPv6 {
		rule.Family = netlink.FAMILY_V6
	}
	if err := s.Server.Netlink().RuleAdd(rule); err != nil {
		return fmt.Errorf("add the rule by mark: %w", err)
	}
	command := s.Server.Command(ctx, "nft", "-f", "-")
	command.Stdin = strings.NewReader(nft)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, output)
	}
	return nil
}
