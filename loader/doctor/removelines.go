package doctor

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// remove is the command that takes a rule out of its file, by which it is not added
// again when the network is set up.
func (l *RuleLine) remove() string {
	for _, f := range ruleFiles {
		if matches, err := filepath.Match(f.pattern, l.File); matches && err == nil {
			return f.remove(l)
		}
	}
	return removeEntry(l)
}

// Commands that name lines by their numbers have to be right when all of a report are
// typed, one after the other: they blank lines, and never take any out. So should who
// does it by hand.

// removeCommand puts `true` in the place of a command of a script: there may be
// others on its line, and a branch of the shell may have no other. One that goes on
// over several lines or holds more than words is left to a person: a quote or a
// parenthesis may belong to what stands around it, and the script would break.
func removeCommand(l *RuleLine) string {
	if l.Last != 0 || strings.ContainsAny(l.Text, "\\'\"`()&|") {
		return explained(edit(l), "put true in the place of the rule, and leave its other lines empty")
	}
	var words []string
	for word := range strings.FieldsSeq(l.Text) {
		words = append(words, special.ReplaceAllString(word, `\$0`))
	}
	// Without the end, what adds to table 1 would be found in what adds to table 100.
	return sed(fmt.Sprintf(`%ds,%s\([[:space:];]\|$\),true\1,`, l.Line, strings.Join(words, "[[:space:]]*")), l.File)
}

// special is what sed reads as more than itself, with what parts its expressions.
var special = regexp.MustCompile(`[\\.*^$,[\]]`)

func removeLine(l *RuleLine) string { return sed(fmt.Sprintf("%ds/.*//", l.Line), l.File) }

func removeKey(l *RuleLine) string { return removeLine(l) + " && nmcli connection reload" }

// removeSection leaves a file of a package as it is, which the next update would
// bring back: a copy of the same name below /etc is read in its place
// (systemd.network(5)), and has the same lines.
func removeSection(l *RuleLine) string {
	file, first := l.File, ""
	if override, ok := overrideOf(l.File); ok {
		file = override
		first = fmt.Sprintf("test -e %s || cp %s %s && ", quote(override), quote(l.File), quote(override))
	}
	return first + sed(fmt.Sprintf("%d,%ds/.*//", l.Line, cmp.Or(l.Last, l.Line)), file) + " && networkctl reload"
}

// overrideOf names the file that is read in the place of one of a package.
func overrideOf(file string) (string, bool) {
	name, ok := strings.CutPrefix(file, "/usr/lib/")
	return "/etc/" + name, ok
}

// removeEntry leaves it to a person to take an entry out of a list, which may not be
// left empty.
func removeEntry(l *RuleLine) string {
	return explained(edit(l)+" && netplan apply", "take the entry out, and leave its lines empty")
}

// sed is the command that changes a file in its place. Where the file is a link, as
// RHEL's /etc/rc.local, it stays one.
func sed(script, file string) string {
	return "sed -i --follow-symlinks " + quote(script) + " " + quote(file)
}

func edit(l *RuleLine) string { return fmt.Sprintf(`"${EDITOR:-vi}" +%d %s`, l.Line, quote(l.File)) }
