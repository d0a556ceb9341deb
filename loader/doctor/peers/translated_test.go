// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"testing"

	"replypath/loader/discover"
	"replypath/loader/doctor/snapshot"
	"replypath/test/testhost"
)

func TestTranslatedAddresses(t *testing.T) {
	translated := func(changes ...func(*snapshot.Host)) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			h.Translations = []snapshot.Translation{{Address: testhost.Address("198.51.100.7"), Target: testhost.Address("10.17.0.100"), Count: 3}}
			testhost.And(changes...)(h)
		}
	}
	network := testhost.Prefixes("198.51.100.0/28")
	testhost.Check(t, TranslatedAddresses, []testhost.Wants{
		{"nothing is translated", nil, nil},
		{"nobody names it", translated(), []string{
			"warning: 198.51.100.7 is translated to 10.17.0.100 (3 connections): no interface has it, and no rule names it: replies go as routed" +
				" => add \"198.51.100.7\" to addresses in /etc/replypath/replypath.yaml, then systemctl reload replypath"}},
		{"the configuration names it", translated(func(h *snapshot.Host) { h.Config.Addresses = network }), nil},
		{"a rule names it", translated(func(h *snapshot.Host) { h.Firewall.Translated = network }), nil},
		{"a local route", translated(func(h *snapshot.Host) { h.OwnPrefixes = []discover.OwnPrefix{{Prefix: network[0]}} }), nil},
		{"an interface has it", translated(func(h *snapshot.Host) {
			h.Own = append(h.Own, discover.OwnAddress{Address: testhost.Address("198.51.100.7")})
		}), nil},
	})
}
