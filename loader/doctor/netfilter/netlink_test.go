// SPDX-License-Identifier: Apache-2.0

package netfilter

import "testing"

func TestCountServices(t *testing.T) {
	const text = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A000001:0050 rr
  -> C0A801C8:0050      Masq    1      0          0
UDP  [2001:0db8:0000:0000:0000:0000:0000:0001]:0035 rr
FWM  00000001 wlc
`
	if got := countServices(text); got != 3 {
		t.Errorf("%d services, want 3", got)
	}
}
