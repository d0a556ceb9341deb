// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"replypath/test/await"
)

// What iptables-nft leaves to its own extensions.
func TestReadExtensions(t *testing.T) {
	eth1 := []byte("eth1\x00")
	for _, test := range []struct {
		name  string
		exprs []expr.Any
		want  Rule
	}{
		{"-i eth1 -m rpfilter --invert -j DROP", []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Register: 1, Data: eth1},
			&expr.Match{Name: "rpfilter"}, &expr.Verdict{Kind: expr.VerdictDrop},
		}, Rule{ReversePath: true, Refuses: true, In: []string{"eth1"}}},
		{"-m rpfilter -j REJECT", []expr.Any{&expr.Match{Name: "rpfilter"}, &expr.Target{Name: "REJECT"}}, Rule{ReversePath: true, Refuses: true}},
		{"-m mark --mark 0x40000/0x40000 -m rpfilter --invert -j DROP", []expr.Any{
			&expr.Match{Name: "mark", Info: &xt.Unknown{0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0}}, &expr.Match{Name: "rpfilter"}, &expr.Verdict{Kind: expr.VerdictDrop},
		}, Rule{ReversePath: true, Refuses: true, Marked: true}},
		{"-m mark ! --mark 0x40000/0x40000 -m rpfilter --invert -j DROP", []expr.Any{
			&expr.Match{Name: "mark", Info: &xt.Unknown{0, 0, 4, 0, 0, 0, 4, 0, 1, 0, 0, 0}}, &expr.Match{Name: "rpfilter"}, &expr.Verdict{Kind: expr.VerdictDrop},
		}, Rule{ReversePath: true, Refuses: true}},
		{"-j CONNMARK --restore-mark", []expr.Any{&expr.Target{Name: "CONNMARK"}}, Rule{Restores: true}},
		{"-m connmark --mark 1 -j MARK, in a dialect of its own", []expr.Any{
			&expr.Match{Name: "connmark"}, &expr.Immediate{Register: 1, Data: []byte{1, 0, 0, 0}},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
		}, Rule{Restores: true, Marks: []uint32{1}, Gives: []uint32{1}}},
		{"a mark that is none of a connection", []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true}},
			Rule{GivesUnknown: true}},
		{"-j HMARK", []expr.Any{&expr.Target{Name: "HMARK"}}, Rule{GivesUnknown: true}},
		{"-p tcp", []expr.Any{&expr.Match{Name: "tcp"}}, Rule{}},
	} {
		await.Same(t, test.name, test.want, readRule(test.exprs, nil))
	}
}

func TestLegacyTables(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{"ip_tables_names": "nat\nfilter\n", "ip6_tables_names": "raw\n"} {
		await.Must(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
	}
	await.Same(t, "read", []string{"ip filter", "ip nat", "ip6 raw"}, legacyIn(dir))
}
