// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// hostile are files that are meant to keep who reads them busy, or to say what they should not.
func hostile() map[string]string {
	each := func(n int, item func(i int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(item(i))
		}
		return b.String()
	}
	return map[string]string{
		"lists in lists":    strings.Repeat("[", maxFileSize),
		"maps in maps":      strings.Repeat("{", maxFileSize),
		"keys in keys":      strings.Repeat("? ", maxFileSize/2),
		"items in items":    strings.Repeat("- ", maxFileSize/2),
		"an error late":     strings.Repeat("a: ["+strings.Repeat("b,", 490)+"]\n", 990) + "mode: [",
		"an error in lines": strings.Repeat(strings.Repeat("[", 1000)+"\n", 999),
		"billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n" + each(9, func(i int) string {
			return fmt.Sprintf("%c: &%[1]c [%s]\n", 'b'+i, strings.Repeat(fmt.Sprintf("*%c,", 'a'+i), 9))
		}),
		"laughs below a key":   "exclude: &a [*b]\nprotocols: &b [*a,*a]\n",
		"a list of itself":     "exclude: &a [*a]\n",
		"a map of itself":      "metrics: &a {listen: *a}\n",
		"anchors":              "exclude: [" + strings.Repeat("&a x,", maxFileSize/6) + "]\n",
		"a million keys":       strings.Repeat("a: 1\n", maxFileSize/6),
		"a million entries":    "exclude:\n" + strings.Repeat("- 192.0.2.0/24\n", maxFileSize/16),
		"a million protocols":  "protocols:\n" + strings.Repeat("- 1\n", maxFileSize/5),
		"a million ignored":    "ignore_interfaces: [" + strings.Repeat("a,", maxFileSize/3) + "]\n",
		"interfaces":           "interfaces:\n" + each(40000, func(i int) string { return fmt.Sprintf("- {name: e%d}\n", i) }),
		"globs":                "interfaces:\n" + each(25000, func(i int) string { return fmt.Sprintf("- {name: \"*%d*\"}\n", i) }),
		"gateways":             "interfaces:\n- name: e\n  gateways:\n" + each(50000, func(i int) string { return fmt.Sprintf("  - 10.%d.%d.%d\n", i>>16, i>>8&255, i&255) }),
		"a line of the log":    "mode: \"x\\ntime=2026-01-01T00:00:00Z level=INFO msg=ready\"\n",
		"a key of the log":     "\"x\\nlevel=INFO\": 1\n",
		"a terminal":           "mode: \"\\e[2J\\e]0;owned\\a\"\n",
		"a key for a terminal": "\"\\e[2J\": 1\n",
		"reversed":             "mode: \"\u202eecrofne\"\n",
		"an interface":         "interfaces: [{name: \"eth0\\nx\"}]\n",
		"a terminal's name":    "interfaces: [{name: \"\\e[2J\"}]\n",
		"an address":           "metrics: {listen: \"127.0.0.1:1\\n\\e[2J\"}\n",
		"a file":               "metrics: {web_config_file: \"\\0\"}\n",
		"zero bytes":           "mode: \x00\x00\n",
		"a zero byte":          "interfaces: [{name: \"a\\0b\"}]\n",
		"invalid utf-8":        "mode: \xff\xfe\xfd\n",
		"half of utf-8":        "mode: enforce\xe2\x82",
		"tags":                 "mode: !!binary aGVsbG8=\n",
		"a tag of its own":     "mode: !<tag:\x7fx> y\n",
		"a key twice":          "mode: enforce\nmode: observe\n",
		"a large number":       "flow_table: {max_entries: 99999999999999999999999999}\n",
		"no number":            "flow_table: {max_entries: .nan}\n",
	}
}

// TestHostileFiles wants each to be refused, or to be taken for what it is, at once.
func TestHostileFiles(t *testing.T) {
	for name, text := range hostile() {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			_, err := Parse("f", []byte(text))
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
			if err == nil {
				t.Fatal("it is valid")
			}
			checkHostileError(t, err)
		})
	}
}

// checkHostileError wants an error that can be shown and logged as it is.
func checkHostileError(t *testing.T, err error) {
	t.Helper()
	invalid := new(Error)
	if !errors.As(err, &invalid) || !errors.Is(err, ErrInvalid) {
		t.Errorf("%T: %v", err, err)
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) > mostErrors+1 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if len(line) > 1000 || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%d bytes long, or not printable: %.200q", len(line), line)
		}
	}
}

// TestNoFile wants what never ends, or never begins, refused at once.
func TestNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe, leads := filepath.Join(dir, "pipe"), filepath.Join(dir, "leads")
	if err := errors.Join(unix.Mkfifo(pipe, 0o600), os.Symlink(pipe, leads), os.Symlink("loop", filepath.Join(dir, "loop"))); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		pipe: "is not a regular file", leads: "is not a regular file", "/dev/zero": "is not a regular file",
		filepath.Join(dir, "loop"): "too many levels of symbolic links",
		"a\x00b":                   "cannot be read",
	} {
		result := make(chan error, 1)
		go func() {
			_, err := Load(path)
			result <- err
		}()
		select {
		case err := <-result:
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) {
				t.Errorf("%q: %v", path, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%q is read for ever", path)
		}
	}
}
