// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// sources is where a router checks them, one rule for each interface and family. A table belongs to a namespace.
var sources = &nftables.Chain{
	Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "urpf"}, Name: "forward",
	Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
}

// withTables runs fn with what reads and writes a router's rules.
func (h *Host) withTables(fn func(*nftables.Conn) error) error {
	err := h.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		return fn(conn)
	})
	if err != nil {
		return fmt.Errorf("nftables of %s: %w", h.name, err)
	}
	return nil
}

// checkSources has a router drop what comes in by one of these interfaces from outside its subnet. That is strict
// unicast reverse path forwarding (RFC 3704, section 2.2): there is one subnet behind each.
func checkSources(router *Host, interfaces ...*Interface) error {
	return router.withTables(func(conn *nftables.Conn) error {
		conn.AddTable(sources.Table)
		conn.AddChain(sources)
		for _, i := range interfaces {
			for _, f := range Families {
				conn.AddRule(&nftables.Rule{Table: sources.Table, Chain: sources, Exprs: i.dropOthers(f)})
			}
		}
		return conn.Flush()
	})
}

// dropOthers is "iifname NAME meta nfproto FAMILY ip saddr != SUBNET counter drop".
func (i *Interface) dropOthers(f Family) []expr.Any {
	// Offsets of the source address in the headers of RFC 791 and RFC 8200.
	protocol, offset := byte(unix.NFPROTO_IPV4), uint32(12)
	if f == IPv6 {
		protocol, offset = unix.NFPROTO_IPV6, 8
	}
	subnet := address(f, i.subnet, i.number)
	prefix := subnet.Addr().AsSlice()[:subnet.Bits()/8]
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, i.Name)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(prefix))},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: prefix},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}

// countDrops adds up what a router's rules have dropped.
func countDrops(router *Host) (drops uint64, err error) {
	err = router.withTables(func(conn *nftables.Conn) error {
		rules, err := conn.GetRules(sources.Table, sources)
		for _, rule := range rules {
			for _, e := range rule.Exprs {
				if counter, ok := e.(*expr.Counter); ok {
					drops += counter.Packets
				}
			}
		}
		return err
	})
	return drops, err
}
