package counters

import "testing"

func TestNetstat(t *testing.T) {
	const text = `TcpExt: SyncookiesSent IPReversePathFilter Last
TcpExt: 1 17 3
IpExt: IPReversePathFilter
IpExt: 9
`
	if got := netstat(text, "TcpExt:", "IPReversePathFilter"); got == nil || *got != 17 {
		t.Errorf("got %v", got)
	}
	if got := netstat(text, "IpExt:", "IPReversePathFilter"); got == nil || *got != 9 {
		t.Errorf("got %v", got)
	}
	for _, text := range []string{"", "TcpExt: IPReversePathFilter\n", "TcpExt: IPReversePathFilter\nTcpExt: x\n", "TcpExt: A IPReversePathFilter\nTcpExt: 1\n"} {
		if got := netstat(text, "TcpExt:", "IPReversePathFilter"); got != nil {
			t.Errorf("%q: got %d", text, *got)
		}
	}
}
