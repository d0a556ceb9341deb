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

// removeCommand puts `true` in the place of a command of a script: there may be
// others on its line, and a branch of the shell may have no other.
func removeCommand(l *RuleLine) string {
	var words []string
	for word := range strings.FieldsSeq(l.Text) {
		words = append(words, special.ReplaceAllString(word, `\$0`))
	}
	script := fmt.Sprintf("%ds|%s|true|", l.Line, strings.Join(words, "[[:space:]]*"))
	return "sed -i " + quote(script) + " " + quote(l.File)
}

// special is what sed reads as more than itself.
var special = regexp.MustCompile(`[\\.*^$|[\]]`)

func removeLine(l *RuleLine) string { return fmt.Sprintf("sed -i %dd %s", l.Line, quote(l.File)) }

func removeKey(l *RuleLine) string { return removeLine(l) + " && nmcli connection reload" }

func removeSection(l *RuleLine) string {
	return fmt.Sprintf("sed -i %d,%dd %s && networkctl reload", l.Line, cmp.Or(l.Last, l.Line), quote(l.File))
}

// removeEntry leaves it to a person to take an entry out of a list, which may not be
// left empty.
func removeEntry(l *RuleLine) string {
	return explained(fmt.Sprintf(`"${EDITOR:-vi}" +%d %s && netplan apply`, l.Line, quote(l.File)), "take the entry out")
}
