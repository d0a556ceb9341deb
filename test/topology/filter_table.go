// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// All functions here work in the network namespace of the calling thread. The tables are a router's own, so they are
// known by name.

const (
	reversePathTable = "urpf"
	reversePathChain = "prerouting"
	firewallTable    = "firewall"
	firewallChain    = "forward"
	permitChain      = "permitted"
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

// addFirewallTable makes a firewall without any permitted connection:
//
//	table inet firewall {
//		chain permitted { }
//		chain forward {
//			type filter hook forward priority filter;
//			ct state established,related accept
//			ct state invalid counter drop
//			jump permitted
//			counter drop
//		}
//	}
func addFirewallTable() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: firewallTable})
	conn.AddChain(&nftables.Chain{Table: table, Name: permitChain})
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: firewallChain, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for _, exprs := range [][]expr.Any{
		append(matchState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), &expr.Verdict{Kind: expr.VerdictAccept}),
		append(matchState(expr.CtStateBitINVALID), countedDrop()...),
		{&expr.Verdict{Kind: expr.VerdictJump, Chain: permitChain}},
		countedDrop(),
	} {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	return conn.Flush()
}

// permit adds "iifname NAME ip saddr PREFIX accept" for each prefix.
func permit(name string, from []netip.Prefix) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: firewallTable}
	for _, prefix := range from {
		exprs := append(matchInterface(name), matchFamily(FamilyOf(prefix.Addr()))...)
		exprs = append(exprs, matchSource(prefix)...)
		conn.AddRule(&nftables.Rule{
			Table: table, Chain: &nftables.Chain{Table: table, Name: permitChain},
			Exprs: append(exprs, &expr.Verdict{Kind: expr.VerdictAccept}),
		})
	}
	return conn.Flush()
}

func countReversePathTable() (uint64, error) {
	table := &nftables.Table{Family: nftables.TableFamilyIPv6, Name: reversePathTable}
	return sumCounters(&nftables.Chain{Table: table, Name: reversePathChain})
}

func countFirewallTable() (uint64, error) {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: firewallTable}
	return sumCounters(&nftables.Chain{Table: table, Name: firewallChain})
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

// matchState is "ct state" with any of the bits.
func matchState(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits),
			Xor:  binaryutil.NativeEndian.PutUint32(0),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

// matchInterface is "iifname".
func matchInterface(name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded},
	}
}

// matchFamily is "meta nfproto", which a table for both families needs before an address is looked at.
func matchFamily(f Family) []expr.Any {
	protocol := byte(unix.NFPROTO_IPV4)
	if f == IPv6 {
		protocol = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
	}
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
