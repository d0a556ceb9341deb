// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"replypath/test/await"
)

// The table of checks in the documentation is the one in the source. After a change that is meant: UPDATE_DOCS=1 go
// test -run Reference.
func TestReference(t *testing.T) {
	const file = "../../docs/guide/troubleshooting.md"
	text := await.Must1[[]byte](t)(os.ReadFile(file))
	between := regexp.MustCompile(`(?s)(<!-- checks -->\n).*(<!-- /checks -->\n)`)
	if !between.Match(text) {
		t.Fatalf("%s has no place for the table", file)
	}
	want := between.ReplaceAllString(string(text), "${1}"+strings.ReplaceAll(table(), "$", "$$")+"${2}")
	if want == string(text) {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("the checks in %s are not up to date: UPDATE_DOCS=1 go test ./loader/doctor -run Reference", file)
	}
	await.Must(t, os.WriteFile(file, []byte(want), 0o644))
}

func table() string {
	var b strings.Builder
	b.WriteString("\n| check | finds |\n|---|---|\n")
	for _, c := range known {
		b.WriteString("| <a id=\"" + anchor(c.name) + "\"></a>`" + c.name + "` | " + c.says + " |\n")
	}
	b.WriteString("\n")
	return b.String()
}

// Names are for scripts: kebab-case, each once, and what stands beside them is one line.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	name := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	for _, c := range known {
		if !name.MatchString(c.name) || seen[c.name] {
			t.Errorf("%q is no name, or not the first", c.name)
		}
		seen[c.name] = true
		for _, text := range []string{c.says, c.fine} {
			if text == "" && c.name != "managed" || strings.ContainsAny(text, "\n|") {
				t.Errorf("%s: %q is not one line for a table", c.name, text)
			}
		}
		if c.fine != strings.ToLower(c.fine) {
			t.Errorf("%s: %q is not in lower case", c.name, c.fine)
		}
	}
}
