// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// All functions here but nft work in the network namespace of the calling thread. The tables are a router's own, so they
// are known by name.

const (
	reversePathTable = "urpf"
	reversePathChain = "prerouting"
)

// addReversePathTable does for IPv6 what rp_filter=1 does for IPv4:
//
//	table ip6 urpf { chain prerouting {
//		type filter hook prerouting priority raw;
//		ip6 saddr :: accept
//		ip6 saddr fe80::/10 accept
//		fib saddr . iif oif missing counter drop
//	} }
//
// Link-local and unspecified sources are neighbour discovery's: they are never
// forwarded and say nothing about a route.
func addReversePathTable() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv6, Name: reversePathTable})
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: reversePathChain, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	for _, p := range []string{"::/128", "fe80::/10"} {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(matchSource(netip.MustParsePrefix(p)), accept)})
	}
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append([]expr.Any{
		&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		// No output interface: the route back is another one, or none.
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}, countedDrop()...)})
	return conn.Flush()
}

// firewall is that of a stateful router, without any permitted connection.
const firewall = `table inet firewall {
	chain permitted { }
	chain forward {
		type filter hook forward priority filter
		ct state established,related accept
		ct state invalid counter drop
		jump permitted
		counter drop
	}
}`

// nft loads a ruleset on the host by nft(8).
func (h *Host) nft(ruleset string) error {
	c := h.Command(context.Background(), "nft", "-f", "-")
	c.Stdin = strings.NewReader(ruleset)
	output, err := c.CombinedOutput()
	return h.named(err, "nft: %s", output)
}

func countReversePathTable() (uint64, error) {
	table := &nftables.Table{Family: nftables.TableFamilyIPv6, Name: reversePathTable}
	return sumCounters(&nftables.Chain{Table: table, Name: reversePathChain})
}

func countFirewallTable() (uint64, error) {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "firewall"}
	return sumCounters(&nftables.Chain{Table: table, Name: "forward"})
}

// sumCounters adds up the packets of all rules of a chain that count.
func sumCounters(chain *nftables.Chain) (uint64, error) {
	conn, err := nftables.New()
	if err != nil {
		return 0, err
	}
	rules, err := conn.GetRules(chain.Table, chain)
	if err != nil {
		return 0, fmt.Errorf("list the rules of %s %s: %w", chain.Table.Name, chain.Name, err)
	}
	var sum uint64
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				sum += counter.Packets
			}
		}
	}
	return sum, nil
}

func countedDrop() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

// matchSource is "ip saddr" or "ip6 saddr" with a prefix.
func matchSource(prefix netip.Prefix) []expr.Any {
	// Offsets of the source address in the headers of RFC 791 and RFC 8200.
	offset := uint32(12)
	if prefix.Addr().Is6() {
		offset = 8
	}
	length := prefix.Addr().BitLen() / 8
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(length)},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: uint32(length),
			Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
			Xor:  bytes.Repeat([]byte{0}, length),
		},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: prefix.Masked().Addr().AsSlice()},
	}
}
