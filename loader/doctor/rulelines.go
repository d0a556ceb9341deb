package doctor

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// RuleLine is a line of a file that adds a rule when the network is set up.
type RuleLine struct {
	File string
	Line int
	Text string       // one line
	Src  netip.Prefix // not valid where it has none, or one that cannot be read
	// Family is that of a line without a source, by which it could be told: 0 where
	// it does not say, or means both.
	Family int
	IIF    string
	Mark   string // as written
	Table  string // as written
	Owner  string // who reads the file
}

func (l *RuleLine) where() string { return fmt.Sprintf("%s:%d", l.File, l.Line) }

// show is the command that shows it among the others of its file.
func (l *RuleLine) show() string { return "cat " + quote(l.File) }

// adds tells whether a line adds a rule. A table may be written by a name of
// /etc/iproute2/rt_tables, so that it decides only where both are numbers.
func (l *RuleLine) adds(r *Rule) bool {
	if l.Src.IsValid() != r.Src.IsValid() || l.Src.IsValid() && l.Src.Masked() != r.Src.Masked() {
		return false
	}
	if l.Family != 0 && l.Family != r.Family || l.IIF != r.IIF || l.markDiffers(r) {
		return false
	}
	if !l.Src.IsValid() && l.Mark == "" {
		return false // nothing to tell it by
	}
	table, err := strconv.Atoi(l.Table)
	return err != nil || table == r.Table
}

// markDiffers compares a mark with its mask: all bits of it where none is written.
func (l *RuleLine) markDiffers(r *Rule) bool {
	if l.Mark == "" {
		return r.hasMark()
	}
	text, maskText, hasMask := strings.Cut(l.Mark, "/")
	mark, err := strconv.ParseUint(text, 0, 32)
	if err != nil || uint32(mark) != r.Mark {
		return true
	}
	if !hasMask {
		return r.Mask != allBits
	}
	mask, err := strconv.ParseUint(maskText, 0, 32)
	return err != nil || uint32(mask) != r.Mask
}

// parseSelectors reads the arguments of `ip rule add`, in any order.
func (l *RuleLine) parseSelectors(words []string) {
	for n := 0; n+1 < len(words); n++ {
		value := words[n+1]
		switch words[n] {
		case "from":
			l.Src = parsePrefix(value)
		case "iif", "dev":
			l.IIF = value
		case "fwmark":
			l.Mark = value
		case "lookup", "table":
			l.Table = value
		default:
			continue
		}
		n++
	}
}

// isOf notes the family of a line that has no source.
func (l *RuleLine) isOf(family int) {
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
func parseScript(file, text string) []RuleLine {
	var found []RuleLine
	joinLines(text, func(first int, words []string) {
		for _, command := range splitCommands(words) {
			if arguments, ok := ruleAdd(command); ok {
				l := RuleLine{File: file, Line: first, Text: strings.Join(command, " ")}
				l.parseSelectors(arguments)
				l.isOf(familyOption(command))
				found = append(found, l)
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
	for n, word := range words {
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
	if begin >= 0 {
		commands = append(commands, words[begin:])
	}
	return commands
}

// ruleAdd returns the arguments of `ip [options] rule add`; ip(8) takes "ru" and
// "a" as well.
func ruleAdd(command []string) (arguments []string, ok bool) {
	n := 1
	for n < len(command) && strings.HasPrefix(command[n], "-") {
		n++
	}
	if n+1 >= len(command) || !isShort(command[n], "rule", 2) || !isShort(command[n+1], "add", 1) {
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
func parseRuleFile(file, text string) []RuleLine {
	var found []RuleLine
	for n, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		l := RuleLine{File: file, Line: n + 1, Text: strings.Join(words, " ")}
		l.parseSelectors(words)
		l.isOf(ruleFileFamily(file, words[0]))
		found = append(found, l)
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

// parseNetworkd reads the sections [RoutingPolicyRule] of a .network file
// (systemd.network(5)).
func parseNetworkd(file, text string) []RuleLine {
	var found []RuleLine
	parseINI(text, func(line int, section, key, value string) {
		if section != "RoutingPolicyRule" {
			return
		}
		if key == "" {
			found = append(found, RuleLine{File: file, Line: line, Text: "[RoutingPolicyRule]", Family: unix.AF_INET})
			return
		}
		l := &found[len(found)-1]
		l.Text += " " + key + "=" + value
		switch key {
		case "Family": // IPv4 without it, unless there is an address
			l.isOf(map[string]int{"ipv4": unix.AF_INET, "ipv6": unix.AF_INET6}[value])
		case "To":
			if to := parsePrefix(value); to.IsValid() {
				l.isOf(familyOf(to))
			}
		case "From":
			if l.Src = parsePrefix(value); l.Src.IsValid() {
				l.Family = 0
			}
		case "IncomingInterface":
			l.IIF = value
		case "FirewallMark":
			l.Mark = value
		case "Table":
			l.Table = value
		}
	})
	return found
}

// parseKeyfile reads the routing rules of a NetworkManager connection,
// "routing-rule1=priority 100 from 10.4.0.100 table 100" (nm-settings-keyfile(5)).
func parseKeyfile(file, text string) []RuleLine {
	var found []RuleLine
	parseINI(text, func(line int, section, key, value string) {
		if section != "ipv4" && section != "ipv6" || !strings.HasPrefix(key, "routing-rule") {
			return
		}
		l := RuleLine{File: file, Line: line, Text: key + "=" + value}
		l.parseSelectors(strings.Fields(value))
		l.isOf(map[string]int{"ipv4": unix.AF_INET, "ipv6": unix.AF_INET6}[section])
		found = append(found, l)
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
