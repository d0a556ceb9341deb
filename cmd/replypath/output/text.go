// SPDX-License-Identifier: Apache-2.0

package output

import (
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"replypath/loader/status"
)

// OrDash is text, or a dash for none.
func OrDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// OrEmpty is the text behind a pointer, "" for none.
func OrEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// YesNo is a word for b.
func YesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Endpoint is an address with its port, or without where there is none.
func Endpoint(address string, port uint16) string {
	if port == 0 {
		return address
	}
	return net.JoinHostPort(address, strconv.Itoa(int(port)))
}

// Duration is a number of seconds as people read it, "1m30s".
func Duration(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

// Daemon tells of the process behind a datapath, and whether that goes on without one.
func Daemon(d *status.Daemon, attached bool) string {
	switch {
	case !d.Running && attached:
		return "not running, what is attached goes on"
	case !d.Running:
		return "not running"
	}
	text := "running"
	if d.PID != nil {
		text += ", pid " + strconv.Itoa(*d.PID)
	}
	if d.Version != nil {
		text += ", version " + *d.Version
	}
	return text
}

// Printable escapes what a terminal would obey: the kernel takes it in the name of an interface, and anybody in
// that of a file.
func Printable(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, isControl) {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		_, size := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && size == 1 || isControl(r) {
			quoted := strconv.Quote(text[i : i+size])
			b.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// isControl tells of runes that are no part of a text, those that turn its direction included.
func isControl(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }
