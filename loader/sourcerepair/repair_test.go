// SPDX-License-Identifier: Apache-2.0

package sourcerepair

import (
	"net/netip"
	"testing"

	"replypath/loader/config"
	"replypath/loader/discover"
)

func TestSeveral(t *testing.T) {
	own := func(texts ...string) (list []discover.OwnAddress) {
		for _, text := range texts {
			address, onLo := text, false
			if text[0] == '!' {
				address, onLo = text[1:], true
			}
			list = append(list, discover.OwnAddress{Address: netip.MustParseAddr(address), LoopbackOnly: onLo})
		}
		return list
	}
	for _, c := range []struct {
		own               []discover.OwnAddress
		kernel, symmetric bool
	}{
		{own(), false, false},
		{own("10.0.0.1", "2001:db8::1"), false, false},
		{own("10.0.0.1", "10.0.0.2"), true, true},
		{own("2001:db8::1", "2001:db8::2"), true, true},
		{own("10.0.0.1", "!10.0.0.2"), false, true},
	} {
		cfg := config.Default()
		r := New(Host{}, cfg)
		r.want.Own = c.own
		if got := r.several(); got != c.kernel {
			t.Errorf("%v: %v", c.own, got)
		}
		cfg.LoopbackAddresses = config.LoopbackSymmetric
		if got := r.several(); got != c.symmetric {
			t.Errorf("%v, symmetric: %v", c.own, got)
		}
	}
}
