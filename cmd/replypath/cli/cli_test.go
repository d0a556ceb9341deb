// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"replypath/cmd/replypath/output"
	"replypath/loader/config"
)

// Without a file the defaults hold, unless it was asked for.
func TestRunWithoutFile(t *testing.T) {
	named := false
	f := &ConfigFile{Path: filepath.Join(t.TempDir(), "none.yaml"), Named: func() bool { return named }}
	cfg, found, err := f.Load()
	if err != nil || found || cfg.Mode != config.ModeEnforce {
		t.Errorf("load: %+v, %v, %v", cfg, found, err)
	}
	named = true
	if _, found, err := f.Load(); !errors.Is(err, config.ErrInvalid) || found {
		t.Errorf("load: %v, %v", found, err)
	}
}

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

func TestEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1":             "10.0.0.1:0",
		"10.0.0.1:443":         "10.0.0.1:443",
		"::ffff:10.0.0.1":      "10.0.0.1:0",
		"2001:db8::1":          "[2001:db8::1]:0",
		"[2001:db8::1]:443":    "[2001:db8::1]:443",
		"[::ffff:10.0.0.1]:53": "10.0.0.1:53",
	} {
		if got, err := Endpoint(text); err != nil || got != netip.MustParseAddrPort(want) {
			t.Errorf("%s: %v, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "host", "10.0.0.1:", "10.0.0.1:70000", "10.0.0.0/8", "fe80::1%eth0", "[fe80::1%eth0]:1", "[2001:db8::1]"} {
		if got, err := Endpoint(text); err == nil {
			t.Errorf("%q is taken for %s", text, got)
		}
	}
}
