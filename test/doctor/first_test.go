// SPDX-License-Identifier: Apache-2.0

// Package doctor tests `replypath doctor` on hosts with a fault: it is found, and mended by the sysctl that stands
// beside it. What others made is shown as theirs, and nothing that doctor says, typed, takes traffic away.
package doctor

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"replypath/test/host"
	"replypath/test/product"
	_ "replypath/test/product/inprocess"
	"replypath/test/server"
	"replypath/test/topology"
)

func TestMain(m *testing.M) { product.Main(m) }

// onlyOne wants exactly one finding of a severity.
func onlyOne(t *testing.T, all product.Findings, check, device, severity string, words ...string) product.Finding {
	t.Helper()
	found := all.Of(check, device).With(severity, words...)
	if len(found) != 1 {
		t.Fatalf("%d findings %q of check %s on %q with %q, not one: %+v", len(found), severity, check, device, words, all.Of(check, ""))
	}
	f := found[0]
	if strings.ContainsAny(f.Found, "\n") || f.Found == "" || strings.ToLower(f.Found[:1]) != f.Found[:1] {
		t.Errorf("not one line in lower case: %q", f.Found)
	}
	if f.Severity == "ok" && f.Fix != nil {
		t.Errorf("in order, and yet to be mended: %+v", f)
	}
	return f
}

// isolated runs a command after a script, in a mount and a PID namespace of its own: nothing of what its callers have
// mounted can be found by way of them.
func isolated(t *testing.T, script string) func(*topology.Cmd) {
	return by(t, "unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-ec", script+`; exec "$@"`, "sh")
}

const hideBPFFS = "mount -t tmpfs none /sys/fs/bpf"

// examineAs examines a host by a command that the test prepares, and wants an exit code.
func examineAs(t *testing.T, p *product.Product, code int, prepare func(*topology.Cmd), args ...string) product.Findings {
	t.Helper()
	result := examines(t, p, code, prepare, append([]string{"-o", "json"}, args...)...)
	var findings product.Findings
	if err := json.Unmarshal([]byte(result.Stdout), &findings); err != nil {
		t.Fatalf("%v: %s", err, result)
	}
	findings.WantHarmless(t)
	return findings
}

// TestBeforeTheFirstStart: doctor is the first command, on a host where something that a start takes is missing. It
// says what, and what mends it, and looks at all else.
func TestBeforeTheFirstStart(t *testing.T) {
	n, p := server.New(t)
	host.Shell(t, n.Server.Host, "sysctl -qw net.ipv4.conf.eth1.rp_filter=1")
	for _, check := range []string{"pin-directory", "btf", "kernel", "capabilities", "configuration"} {
		for _, f := range p.Doctor(0).Of(check, "") {
			if f.Severity == "error" {
				t.Errorf("found without a cause: %+v", f)
			}
		}
	}
	wantOwnAddresses(t, n, p)
	for _, test := range []struct {
		name, script, check string
		words               []string
		fix                 string
	}{
		{"no bpf file system", hideBPFFS, "pin-directory", []string{"/sys/fs/bpf is not on a bpf file system"}, "mount -t bpf bpf /sys/fs/bpf"},
		{"one that is read-only", "mount -o remount,ro,bind /sys/fs/bpf", "pin-directory", []string{"/sys/fs/bpf: read-only file system"}, "mount -o remount,rw /sys/fs/bpf"},
		{"no btf", "mount -t tmpfs none /sys/kernel/btf", "btf", []string{"the kernel has no BTF (/sys/kernel/btf/vmlinux)"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			all := examineAs(t, p, 3, isolated(t, test.script))
			fix := product.OrEmpty(onlyOne(t, all, test.check, "", "error", test.words...).Fix)
			onlyOne(t, all, "rp-filter", "eth1", "warning", "enforcing makes it loose")
			if test.fix == "" {
				return
			}
			if fix != test.fix {
				t.Errorf("fix %q, not %q", fix, test.fix)
			}
			onlyOne(t, examineAs(t, p, 0, isolated(t, test.script+"; "+fix)), test.check, "", "ok")
		})
	}
	t.Run("another file system", func(t *testing.T) {
		other := p.WithPinDir(t.TempDir() + "/pins")
		f := onlyOne(t, other.Doctor(3), "pin-directory", "", "error", "is not on a bpf file system")
		if fix := product.OrEmpty(f.Fix); !strings.HasPrefix(fix, "replypath run --pin-dir /sys/fs/bpf/replypath") {
			t.Errorf("fix %q", fix)
		}
	})
}

// rights are those that a start takes, and what has to be taken away to be without them.
var rights = []struct{ name, taken string }{
	{"CAP_NET_ADMIN", "-net_admin"}, {"CAP_BPF", "-bpf,-sys_admin"}, {"CAP_PERFMON", "-perfmon,-sys_admin"},
}

// TestWithoutRights: doctor names the capabilities that it is without, and the checks that it therefore leaves out, and
// looks at the rest.
func TestWithoutRights(t *testing.T) {
	n, p := server.New(t)
	host.Shell(t, n.Server.Host, "sysctl -qw net.ipv4.conf.eth1.rp_filter=1; nft add table inet t")
	for _, r := range rights {
		all := examineAs(t, p, 3, by(t, "setpriv", "--bounding-set="+r.taken, "--inh-caps="+r.taken))
		onlyOne(t, all, "capabilities", "", "error", r.name)
		onlyOne(t, all, "rp-filter", "eth1", "warning", "enforcing makes it loose")
		if got := len(all.Of("capabilities", "").With("error")); got != 1 {
			t.Errorf("%d capabilities are missing, not %s alone", got, r.name)
		}
	}
	as := by(t, "setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
	all := examineAs(t, p, 3, as)
	for _, r := range rights {
		onlyOne(t, all, "capabilities", "", "error", r.name)
	}
	for _, check := range []string{"kernel", "reverse-path-rules", "outgoing-interface-rules"} {
		onlyOne(t, all, check, "", "warning", "not looked at: to read ", "CAP_NET_ADMIN")
	}
	onlyOne(t, all, "rp-filter", "eth1", "warning", "enforcing makes it loose")
	onlyOne(t, all, "default-route", "", "ok", "ipv4")

	p.Start("--listen", "")
	all = examineAs(t, p, 0, as)
	for _, check := range []string{"attached", "configuration", "wrong-way"} {
		onlyOne(t, all, check, "", "warning", "not looked at: to read what is pinned takes root's rights")
	}
	onlyOne(t, all, "last-hop", "", "warning", "not looked at: to read the flow table takes CAP_BPF")
	onlyOne(t, all, "capabilities", "", "note", "CAP_BPF")
}

// TestAnotherPinDir: who asks with another --pin-dir than the datapath's, or without rights, is told so, and neither where replies
// leave nor to start what is refused.
func TestAnotherPinDir(t *testing.T) {
	_, p := server.New(t)
	other := p.WithPinDir(p.PinDir + "-other")
	wantFirst := func(summary string) {
		t.Helper()
		if s := other.StatusOf(3); !strings.HasPrefix(s.Summary, summary) || s.Mode != "" {
			t.Errorf("%q in mode %q, not %q", s.Summary, s.Mode, summary)
		}
	}
	wantFirst("failed: nothing is attached: start replypath run")
	onlyOne(t, other.Doctor(0), "attached", "", "note", "nothing is attached: start replypath run")
	d := p.Start("--listen", "")
	said := "nothing is attached here: ask with --pin-dir " + p.PinDir
	wantFirst("failed: " + said)
	as := by(t, "setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
	onlyOne(t, examineAs(t, p, 0, as), "addresses", "", "warning", "not looked at")
	for words, all := range map[string]product.Findings{said: other.Doctor(0), "the pins of replypath": examineAs(t, other, 0, as)} {
		if first := all[0]; first.Check != "attached" || !strings.Contains(first.Found, words) || !strings.Contains(first.Found, fmt.Sprintf("pid %d", d.PID())) {
			t.Errorf("%+v", first)
		}
		if got := all.Of("addresses", "").With("warning"); len(got) > 0 {
			t.Errorf("%+v", got)
		}
		for _, f := range all {
			if strings.Contains(product.OrEmpty(f.Fix), "replypath ") {
				t.Errorf("a fix that is refused: %+v", f)
			}
		}
	}
	for _, asked := range []func(*topology.Cmd){here, as} {
		wantSaid(t, other.RunAs(asked, "status"), "failed: nothing is attached here: ", fmt.Sprintf("no datapath is pinned in %s: ", other.PinDir), fmt.Sprint(d.PID()))
	}
}

// wantOwnAddresses wants the first findings to be which replies leave by another interface, until a rule leads these.
func wantOwnAddresses(t *testing.T, n *topology.TwoNIC, p *product.Product) {
	t.Helper()
	for at, f := range n.Families() {
		self := n.Server.Eth1.Address(f)
		want := fmt.Sprintf("%s on eth1: replies leave by eth0, to peers beyond ", self)
		if first := p.Doctor(0)[0]; at == 0 && (first.Check != "addresses" || !strings.HasPrefix(first.Found, want)) {
			t.Errorf("the first finding is %+v, not %q", first, want)
		}
		onlyOne(t, p.Doctor(0), "addresses", "eth1", "warning", want)
		host.Shell(t, n.Server.Host, fmt.Sprintf("ip -%d rule add from %s lookup 100; ip -%d route add default dev eth1 table 100", f, self, f))
		onlyOne(t, p.Doctor(0), "addresses", "eth1", "ok", fmt.Sprintf("%s on eth1: replies leave by eth1", self))
		host.Shell(t, n.Server.Host, fmt.Sprintf("ip -%d rule del from %s lookup 100; ip -%d route flush table 100", f, self, f))
		host.Shell(t, n.Server.Host, fmt.Sprintf("ip -%d rule add from %s prohibit", f, self))
		onlyOne(t, p.Doctor(0), "addresses", "eth1", "warning", fmt.Sprintf("%s on eth1: the kernel refuses replies", self))
		host.Shell(t, n.Server.Host, fmt.Sprintf("ip -%d rule del from %s prohibit", f, self))
		onlyOne(t, p.Doctor(0), "addresses", "eth0", "ok", fmt.Sprintf("%s on eth0: replies leave by eth0", n.Server.Eth0.Address(f)))
	}
}
