// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net/netip"
	"testing"
)

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
