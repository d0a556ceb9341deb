// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"replypath/cmd/replypath/output"
)

// TestPrintable wants names that a terminal would obey escaped, in errors and in tables, and all others as they are.
func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"eth0": "eth0", "größe → 5": "größe → 5", `a\b "c"`: `a\b "c"`,
		"\x1b[2Jx": `\x1b[2Jx`, "a\rb": `a\rb`, "\x9b1m": `\x9b1m`, "\u202eabc": `\u202eabc`, "\xff\xfe": `\xff\xfe`, "\x7f": `\x7f`,
	} {
		var out bytes.Buffer
		var table output.Page
		Report(&out, errors.New(text))
		output.AddTable(&table, []output.Field[string]{output.NewField("NAME", 0, func(s *string) string { return *s })}, []string{text})
		if out.String() != "replypath: "+want+"\n" || !strings.HasSuffix(table.String(), "\n"+want+"\n") {
			t.Errorf("%q is shown as %q and %q", text, out.String(), table.String())
		}
	}
}
