package doctor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRemoveLines types the commands that take rules out of files: what they belong
// to stays as it was.
func TestRemoveLines(t *testing.T) {
	for file, texts := range map[string][2]string{
		"/etc/network/interfaces": {
			"iface eth1 inet static\n\tpost-up  ip rule\tadd from 10.4.0.100 table 100; ip route flush cache\n",
			"iface eth1 inet static\n\tpost-up  true; ip route flush cache\n",
		},
		"/etc/rc.local": {
			"if true; then\n  /sbin/ip -4 rule add from 10.4.0.100 table 100\nfi\nip rule add from 10x4.0.100 table 100\n",
			"if true; then\n  true\nfi\nip rule add from 10x4.0.100 table 100\n",
		},
		"/etc/NetworkManager/system-connections/it's eth 1.nmconnection": {
			"[ipv4]\nmethod=auto\nrouting-rule1=priority 5 from 10.4.0.100 table 100\n",
			"[ipv4]\nmethod=auto\n",
		},
		"/etc/systemd/network/eth1.network": {
			"[Match]\nName=eth1\n[RoutingPolicyRule]\n# replies\nFrom=10.4.0.100\nTable=100\n\n[Network]\nDHCP=no\n",
			"[Match]\nName=eth1\n\n[Network]\nDHCP=no\n",
		},
		"/etc/sysconfig/network-scripts/rule-eth1": {
			"from 10.4.0.100 table 100\nfrom 192.0.2.1 table 7\n",
			"from 192.0.2.1 table 7\n",
		},
	} {
		root := t.TempDir()
		write(t, root, map[string]string{file: texts[0], "bin/nmcli": "#!/bin/sh\n", "bin/networkctl": "#!/bin/sh\n"})
		for _, name := range []string{"nmcli", "networkctl"} {
			if err := os.Chmod(filepath.Join(root, "bin", name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		g := &gatherer{Options: Options{Root: root}, host: &Host{}}
		if err := g.files(); err != nil {
			t.Fatal(err)
		}
		fix := g.host.RuleLines[0].remove()
		_, host := newNetwork(t)
		run(t, host, "PATH="+root+"/bin:$PATH\n"+strings.ReplaceAll(fix, quote(file), quote(filepath.Join(root, file))), "sh", "-e")
		got, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(texts[1], string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", fix, diff)
		}
	}
	if got := (&RuleLine{File: "/etc/netplan/a b.yaml", Line: 7}).remove(); got != `"${EDITOR:-vi}" +7 '/etc/netplan/a b.yaml' && netplan apply  # take the entry out` {
		t.Errorf("netplan: %s", got)
	}
	if got := (&RuleLine{File: "/etc/elsewhere", Line: 7}).remove(); got == "" {
		t.Error("of no known file")
	}
}
