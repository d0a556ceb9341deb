// SPDX-License-Identifier: Apache-2.0

package hostfiles

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
)

// newLine is a line with the arguments of `ip rule add`, in any order. The family is that of one that has no source.
func newLine(file string, line int, text string, words []string, family int) snapshot.RuleLine {
	l := snapshot.RuleLine{File: file, Line: line, Text: text}
	for n := 0; n+1 < len(words); n++ {
		if set(&l, ipWords[words[n]], words[n+1]) {
			n++
		}
	}
	isOf(&l, family)
	return l
}

// What ip(8), netplan and networkd call what a line selects by, and leads to.
var (
	ipWords = map[string]string{
		"from": "from", "iif": "iif", "dev": "iif", "fwmark": "mark", "lookup": "table", "table": "table",
	}
	netplanKeys  = map[string]string{"from": "from", "mark": "mark", "table": "table"}
	networkdKeys = map[string]string{"From": "from", "IncomingInterface": "iif", "FirewallMark": "mark", "Table": "table"}
)

// set notes one of these; false for anything else.
func set(l *snapshot.RuleLine, what, value string) bool {
	switch what {
	case "from":
		l.Src = parsePrefix(value)
	case "iif":
		l.IIF = value
	case "mark":
		l.Mark = value
	case "table":
		l.Table = value
	}
	return what != ""
}

// isOf notes the family of a line that has no source.
func isOf(l *snapshot.RuleLine, family int) {
	if !l.Src.IsValid() {
		l.Family = family
	}
}

// parsePrefix reads a prefix or an address; others are not valid, as "all".
func parsePrefix(text string) netip.Prefix {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return netip.Prefix{}
}

// parseScript finds `ip rule add` in shell scripts and in /etc/network/interfaces,
// whose up, post-up and pre-up lines are commands.
func parseScript(file, text string) []snapshot.RuleLine {
	var found []snapshot.RuleLine
	joinLines(text, func(first int, words []string) {
		for _, command := range splitCommands(words) {
			if arguments, ok := ruleAdd(command); ok {
				found = append(found, newLine(file, first, strings.Join(command, " "), arguments, familyOption(command)))
			}
		}
	})
	return found
}

// joinLines visits the lines of a script without their comments. A backslash at the
// end joins a line to the next one; a comment ends with its line all the same.
func joinLines(text string, visit func(first int, words []string)) {
	lines := strings.Split(text, "\n")
	var words []string
	first := 1
	for n, line := range lines {
		line, goesOn := strings.CutSuffix(line, `\`)
		more := strings.Fields(strings.ReplaceAll(line, ";", " ; ")) // which needs no blanks
		isComment := func(word string) bool { return strings.HasPrefix(word, "#") }
		if begin := slices.IndexFunc(more, isComment); begin >= 0 {
			more, goesOn = more[:begin], false
		}
		words = append(words, more...)
		if !goesOn || n == len(lines)-1 {
			visit(first, words)
			words, first = nil, n+2
		}
	}
}

// splitCommands cuts a line where the shell ends a command, and before "ip".
func splitCommands(words []string) [][]string {
	var commands [][]string
	begin := -1
	for n, word := range append(words, ";") {
		isIP := word == "ip" || strings.HasSuffix(word, "/ip")
		ends := slices.Contains([]string{"&&", "||", ";", "|", "&"}, word)
		if begin >= 0 && (ends || isIP) {
			commands = append(commands, words[begin:n])
			begin = -1
		}
		if isIP {
			begin = n
		}
	}
	return commands
}

// ruleAdd returns the arguments of `ip [options] rule add`; ip(8) takes "ru" and
// "a" as well.
func ruleAdd(command []string) (arguments []string, ok bool) {
	isWord := func(word string) bool { return !strings.HasPrefix(word, "-") }
	n := slices.IndexFunc(command[1:], isWord) + 1
	if n == 0 || n+1 >= len(command) || !isShort(command[n], "rule", 2) || !isShort(command[n+1], "add", 1) {
		return nil, false
	}
	return command[n+2:], true
}

// familyOption is the family of a command of ip(8) that names no address.
func familyOption(command []string) int {
	if slices.Contains(command, "-6") {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func isShort(word, full string, least int) bool {
	return len(word) >= least && strings.HasPrefix(full, word)
}

// parseRuleFile reads the rule-eth1 and rule6-eth1 of RHEL's network scripts and
// the ifrule-eth1 of SUSE's wicked: a line is the arguments of ip rule.
func parseRuleFile(file, text string) []snapshot.RuleLine {
	var found []snapshot.RuleLine
	for n, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		found = append(found, newLine(file, n+1, strings.Join(words, " "), words, ruleFileFamily(file, words[0])))
	}
	return found
}

// ruleFileFamily is that of a line without a source: RHEL has a file for each, SUSE's
// lines may begin with it.
func ruleFileFamily(file, first string) int {
	name := filepath.Base(file)
	switch {
	case first == "ipv6", strings.HasPrefix(name, "rule6-"):
		return unix.AF_INET6
	case first == "ipv4", strings.HasPrefix(name, "rule-"):
		return unix.AF_INET
	}
	return 0
}

// families are those of networkd's and NetworkManager's files.
var families = map[string]int{"ipv4": unix.AF_INET, "ipv6": unix.AF_INET6}

// parseNetworkd reads the sections [RoutingPolicyRule] of a .network file
// (systemd.network(5)).
func parseNetworkd(file, text string) []snapshot.RuleLine {
	var found []snapshot.RuleLine
	parseINI(text, func(line int, section, key, value string) {
		if section != "RoutingPolicyRule" {
			return
		}
		if key == "" {
			found = append(found, snapshot.RuleLine{File: file, Line: line, Text: "[RoutingPolicyRule]", Family: unix.AF_INET})
			return
		}
		l := &found[len(found)-1]
		l.Text += " " + key + "=" + value
		set(l, networkdKeys[key], value)
		switch key {
		case "Family": // IPv4 without it, unless there is an address
			isOf(l, families[value])
		case "To":
			if to := parsePrefix(value); to.IsValid() {
				isOf(l, snapshot.FamilyOf(to))
			}
		case "From":
			if l.Src.IsValid() {
				l.Family = 0
			}
		}
	})
	return found
}

// parseKeyfile reads the routing rules of a NetworkManager connection,
// "routing-rule1=priority 100 from 10.4.0.100 table 100" (nm-settings-keyfile(5)).
func parseKeyfile(file, text string) []snapshot.RuleLine {
	var found []snapshot.RuleLine
	parseINI(text, func(line int, section, key, value string) {
		if section != "ipv4" && section != "ipv6" || !strings.HasPrefix(key, "routing-rule") {
			return
		}
		found = append(found, newLine(file, line, key+"="+value, strings.Fields(value), families[section]))
	})
	return found
}

// parseINI visits every section, with an empty key, and every assignment.
func parseINI(text string, visit func(line int, section, key, value string)) {
	section := ""
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(name, "]")
			visit(n+1, section, "", "")
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok {
			visit(n+1, section, strings.TrimSpace(key), strings.TrimSpace(value))
		}
	}
}

// parseNetplan reads the entries of every routing-policy in a netplan file. One
// that cannot be read has none.
func parseNetplan(file, text string) []snapshot.RuleLine {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return nil
	}
	var found []snapshot.RuleLine
	walkPolicies(&document, func(entry *yaml.Node) {
		l := snapshot.RuleLine{File: file, Line: entry.Line}
		var words []string
		for n := 0; n+1 < len(entry.Content); n += 2 {
			key, value := entry.Content[n].Value, entry.Content[n+1].Value
			words = append(words, key+": "+value)
			set(&l, netplanKeys[key], value)
		}
		l.Text = "{" + strings.Join(words, ", ") + "}"
		found = append(found, l)
	})
	return found
}

// walkPolicies visits the entries of every routing-policy, wherever it is.
func walkPolicies(n *yaml.Node, visit func(*yaml.Node)) {
	if n.Kind == yaml.MappingNode {
		for k := 0; k+1 < len(n.Content); k += 2 {
			if n.Content[k].Value == "routing-policy" && n.Content[k+1].Kind == yaml.SequenceNode {
				for _, entry := range n.Content[k+1].Content {
					visit(entry)
				}
			}
		}
	}
	for _, child := range n.Content {
		walkPolicies(child, visit)
	}
}
