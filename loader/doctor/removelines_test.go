package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// removals are files with rules of several kinds, and what is left of them when every
// rule for 10.4.0.0/24 has been taken out.
var removals = map[string][2]string{
	"/etc/network/interfaces": {
		"iface eth1 inet static\n\tpost-up  ip rule\tadd from 10.4.0.100 table 100; ip rule add from 10.4.0.100 table 10;ip route flush cache\n\tup ip rule add from 10.4.0.101 table 100\n",
		"iface eth1 inet static\n\tpost-up  true; true;ip route flush cache\n\tup true\n",
	},
	"/etc/rc.local": {
		"if true; then\n  /sbin/ip -4 rule add from 10.4.0.100 table 100\nfi\nip rule add from 10x4.0.100 table 100\n" +
			"case $1 in\n1) ip rule add from 10.4.0.100 table 101;;\n2) ip rule add from 10.4.0.100 table 102 ;; esac\nip rule add from 192.0.2.1 # ip rule add from 10.4.0.100\n" +
			"ip rule add \\\n\tfrom 10.4.0.100 table 100\n(ip route flush cache; ip rule add from 10.4.0.100)\n",
		"if true; then\n  true\nfi\nip rule add from 10x4.0.100 table 100\n" +
			"case $1 in\n1) true;;\n2) true ;; esac\nip rule add from 192.0.2.1 # ip rule add from 10.4.0.100\n" +
			"ip rule add \\\n\tfrom 10.4.0.100 table 100\n(ip route flush cache; ip rule add from 10.4.0.100)\n",
	},
	"/etc/NetworkManager/system-connections/it's eth 1;&.nmconnection": {
		"[ipv4]\nrouting-rule1=priority 5 from 10.4.0.100 table 100\nmethod=auto\nrouting-rule2=priority 5 from 192.0.2.1 table 7\nrouting-rule3=priority 5 from 10.4.0.101 table 100\n",
		"[ipv4]\n\nmethod=auto\nrouting-rule2=priority 5 from 192.0.2.1 table 7\n\n",
	},
	"/etc/systemd/network/eth1.network": {
		"[Match]\nName=eth1\n[RoutingPolicyRule]\n# replies\nFrom=10.4.0.100\nTable=100\n\n[Network]\nDHCP=no\n[RoutingPolicyRule]\nFrom=10.4.0.101\n[Link]\n",
		"[Match]\nName=eth1\n\n\n\n\n\n[Network]\nDHCP=no\n\n\n[Link]\n",
	},
	"/usr/lib/systemd/network/a&b.network": {
		"[RoutingPolicyRule]\nFrom=10.4.0.100\nTable=100\n[Network]\nDHCP=no\n[RoutingPolicyRule]\nFrom=10.4.0.101\n",
		"\n\n\n[Network]\nDHCP=no\n\n\n",
	},
	"/etc/sysconfig/network-scripts/rule-eth1": {
		"from 10.4.0.100 table 100\nfrom 192.0.2.1 table 7\nfrom 10.4.0.101 table 100\nfrom 192.0.2.2 table 7\n",
		"\nfrom 192.0.2.1 table 7\n\nfrom 192.0.2.2 table 7\n",
	},
}

// TestRemoveLines types all the commands of a report, one after the other: what the
// rules stand among stays as it was.
func TestRemoveLines(t *testing.T) {
	for file, texts := range removals {
		root := t.TempDir()
		write(t, root, map[string]string{"elsewhere": texts[0], "bin/nmcli": "#!/bin/sh\n", "bin/networkctl": "#!/bin/sh\n"})
		linkFile(t, root, file)
		for _, name := range []string{"nmcli", "networkctl"} {
			if err := os.Chmod(filepath.Join(root, "bin", name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		left, _ := overrideOf(file)
		if !strings.HasPrefix(file, "/usr/lib/") {
			left = file
		}
		fixes := removing(t, root)
		for _, fix := range fixes {
			for _, name := range slices.Compact([]string{file, left}) {
				fix = strings.ReplaceAll(fix, quote(name), quote(filepath.Join(root, name)))
			}
			if output, err := exec.Command("sh", "-ec", "EDITOR=true PATH="+root+"/bin:$PATH\n"+fix).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", fix, err, output)
			}
		}
		if diff := cmp.Diff(texts[1], read(t, filepath.Join(root, left))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", strings.Join(fixes, "\n"), diff)
		}
		if _, err := os.Readlink(filepath.Join(root, file)); err != nil {
			t.Errorf("the link: %v", err)
		}
		if left != file && (read(t, filepath.Join(root, file)) != texts[0] || len(removing(t, root)) > 0) {
			t.Errorf("%s was changed, or is looked at still", file)
		}
	}
}

// linkFile makes a file a link to the one that has its text, in a directory for those that
// are read in its place.
func linkFile(t *testing.T, root, file string) {
	t.Helper()
	for _, dir := range []string{filepath.Dir(file), "/etc/systemd/network"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(root, "elsewhere"), filepath.Join(root, file)); err != nil {
		t.Fatal(err)
	}
}

// removing returns the commands for the rules for 10.4.0.0/24.
func removing(t *testing.T, root string) []string {
	t.Helper()
	g := &gatherer{Options: Options{Root: root}, host: &Host{}}
	if err := g.files(); err != nil {
		t.Fatal(err)
	}
	var fixes []string
	for _, l := range g.host.RuleLines {
		if l.Src.IsValid() && prefix("10.4.0.0/24").Contains(l.Src.Addr()) {
			fixes = append(fixes, l.remove())
		}
	}
	return fixes
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestRemoveByHand has commands that leave the change to a person.
func TestRemoveByHand(t *testing.T) {
	const (
		entry   = " && netplan apply  # take the entry out, and leave its lines empty"
		command = "  # put true in the place of the rule, and leave its other lines empty"
	)
	for _, test := range []struct {
		line RuleLine
		want string
	}{
		{RuleLine{File: "/etc/netplan/a b.yaml", Line: 7}, `"${EDITOR:-vi}" +7 '/etc/netplan/a b.yaml'` + entry},
		{RuleLine{File: "/etc/elsewhere", Line: 7}, `"${EDITOR:-vi}" +7 /etc/elsewhere` + entry},
		{RuleLine{File: "/etc/rc.local", Line: 7, Last: 8, Text: "ip rule add from 10.4.0.100"}, `"${EDITOR:-vi}" +7 /etc/rc.local` + command},
		{RuleLine{File: "/etc/rc.local", Line: 7, Text: "ip rule add from 10.4.0.100&reboot"}, `"${EDITOR:-vi}" +7 /etc/rc.local` + command},
		{RuleLine{File: "/etc/rc.local", Line: 7, Text: "ip rule add from 10.4.0.100 )"}, `"${EDITOR:-vi}" +7 /etc/rc.local` + command},
	} {
		if got := test.line.remove(); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

// TestRemoveTable does not take table 100 for table 1.
func TestRemoveTable(t *testing.T) {
	name := filepath.Join(t.TempDir(), "rc.local")
	write(t, "/", map[string]string{name: "ip rule add from 10.4.0.100 table 100; ip rule add from 10.4.0.100 table 1\n"})
	l := RuleLine{File: name, Line: 1, Text: "ip rule add from 10.4.0.100 table 1"}
	if output, err := exec.Command("sh", "-c", removeCommand(&l)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if got, want := read(t, name), "ip rule add from 10.4.0.100 table 100; true\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
