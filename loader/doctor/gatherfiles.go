package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ruleFiles are where rules are written for the next start of the network, how they
// are read, and who reads them. A file that a pattern matches is read once, by the
// first.
var ruleFiles = []struct {
	pattern string
	parse   func(file, text string) []RuleLine
	owner   string
}{
	{"/etc/network/interfaces", parseScript, "ifupdown"},
	{"/etc/network/interfaces.d/*", parseScript, "ifupdown"},
	{"/etc/network/if-*.d/*", parseScript, "ifupdown"},
	{"/etc/rc.local", parseScript, "rc.local"},
	{"/etc/NetworkManager/dispatcher.d/*", parseScript, networkManager},
	{"/etc/networkd-dispatcher/*/*", parseScript, "networkd-dispatcher"},
	{"/etc/NetworkManager/system-connections/*", parseKeyfile, networkManager},
	{"/etc/systemd/network/*.network", parseNetworkd, networkd},
	{"/etc/systemd/network/*.network.d/*.conf", parseNetworkd, networkd},
	{"/usr/lib/systemd/network/*.network", parseNetworkd, networkd},
	{"/etc/netplan/*.yaml", parseNetplan, "netplan"},
	{"/etc/sysconfig/network-scripts/rule-*", parseRuleFile, "network-scripts"},
	{"/etc/sysconfig/network-scripts/rule6-*", parseRuleFile, "network-scripts"},
	{"/etc/sysconfig/network/ifrule-*", parseRuleFile, "wicked"},
}

// files reads what the host is going to be set up with.
func (g *gatherer) files() error {
	for _, f := range ruleFiles {
		names, err := filepath.Glob(filepath.Join(g.root(), f.pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			if g.isOverridden(name) {
				continue
			}
			text, err := readText(name)
			if err != nil {
				return err
			}
			for _, line := range f.parse(g.shown(name), text) {
				line.Owner = f.owner
				g.host.RuleLines = append(g.host.RuleLines, line)
			}
		}
	}
	return g.firewalld()
}

// overrideOf names the file that is read in the place of one of a package
// (systemd.network(5)).
func overrideOf(file string) (string, bool) {
	name, ok := strings.CutPrefix(file, "/usr/lib/")
	return "/etc/" + name, ok
}

// isOverridden tells a file of a package that is not read, as there is one in its
// place, which may be a link to /dev/null.
func (g *gatherer) isOverridden(name string) bool {
	override, ok := overrideOf(g.shown(name))
	if !ok {
		return false
	}
	_, err := os.Lstat(filepath.Join(g.root(), override))
	return err == nil
}

func (g *gatherer) root() string {
	if g.Root == "" {
		return "/"
	}
	return g.Root
}

// shown is the path of a file as the host knows it.
func (g *gatherer) shown(name string) string {
	if g.Root == "" {
		return name
	}
	return strings.TrimPrefix(name, filepath.Clean(g.Root))
}

// mostText bounds what is read of a file.
const mostText = 1 << 20

// readText returns nothing for directories, devices and what is larger than any
// such file, and for what has gone meanwhile.
func readText(name string) (string, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || info.Size() > mostText) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(text), err
}

// firewalldFile is where firewalld keeps its settings.
const firewalldFile = "/etc/firewalld/firewalld.conf"

func (g *gatherer) firewalld() error {
	name := filepath.Join(g.root(), firewalldFile)
	if _, err := os.Stat(name); err != nil {
		return nil // not installed
	}
	text, err := readText(name)
	if err != nil {
		return err
	}
	f := &Firewalld{File: firewalldFile, IPv6RPFilter: "yes"}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "IPv6_rpfilter="); ok {
			f.IPv6RPFilter = strings.TrimSpace(value)
		}
	}
	g.host.Firewalld = f
	return nil
}

// balancer counts the virtual services of IPVS in this network namespace. The
// format is that of ip_vs_info_seq_show(): a line begins with the protocol.
func (g *gatherer) balancer() error {
	text, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	if err != nil {
		return nil // the kernel does not balance
	}
	g.host.IPVS = countServices(string(text))
	return nil
}

func countServices(text string) int {
	count := 0
	for line := range strings.Lines(text) {
		word, _, _ := strings.Cut(line, " ")
		switch word {
		case "TCP", "UDP", "SCTP", "FWM":
			count++
		}
	}
	return count
}

// tableFulls sums the column table_fulls of /proc/net/stat/arp_cache, of which
// there is a line for each processor, in hexadecimal; 0 where it is not shown.
func tableFulls(name string) uint64 {
	text, err := os.ReadFile("/proc/thread-self/net/stat/" + name)
	if err != nil {
		return 0
	}
	return sumColumn(string(text), "table_fulls")
}

func sumColumn(text, column string) uint64 {
	lines := strings.Split(text, "\n")
	place := -1
	for n, word := range strings.Fields(lines[0]) {
		if word == column {
			place = n
		}
	}
	var sum uint64
	for _, line := range lines[1:] {
		words := strings.Fields(line)
		if place < 0 || place >= len(words) {
			continue
		}
		value, err := strconv.ParseUint(words[place], 16, 64)
		if err == nil {
			sum += value
		}
	}
	return sum
}
