// SPDX-License-Identifier: Apache-2.0

package sourcerepair

import (
	"net/netip"
	"strings"
	"testing"

	"replypath/loader/config"
	"replypath/loader/discover"
)

func TestSeveral(t *testing.T) {
	for own, want := range map[string][2]bool{ // loopback_addresses kernel, symmetric; lo has what stands behind a !
		"": {}, "10.0.0.1 2001:db8::1": {}, "10.0.0.1 10.0.0.2": {true, true}, "2001:db8::1 2001:db8::2": {true, true}, "10.0.0.1 !10.0.0.2": {false, true},
	} {
		cfg := config.Default()
		r := New(Host{}, cfg)
		for word := range strings.FieldsSeq(own) {
			address, onLo := strings.CutPrefix(word, "!")
			r.want.Own = append(r.want.Own, discover.OwnAddress{Address: netip.MustParseAddr(address), LoopbackOnly: onLo})
		}
		got := [2]bool{r.several()}
		cfg.LoopbackAddresses = config.LoopbackSymmetric
		if got[1] = r.several(); got != want {
			t.Errorf("%s: %v, not %v", own, got, want)
		}
	}
}
