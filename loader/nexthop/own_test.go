package nexthop

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestOwn: whoever asks for replypath's own routes alone needs no rules, addresses or neighbours, and does not fail for
// them. Here no rules can be read: the handle's are others than the thread's.
func TestOwn(t *testing.T) {
	p := newPair(t)
	ip(t, p.server, `
route add default via 10.1.0.1
route add default via 10.1.0.2 table 7
rule add prio 40000 table 7
route add default via 10.1.0.3 dev eth0 metric 4294967294 proto 114
route add default via 10.1.0.1 dev eth0 metric 4294967295 proto 114
`)
	err := p.router.Do(func() error {
		got, err := FindOwn(p.server.Netlink())
		want := Routers{
			Fallback: []Default{{p.eth0.Index, address("10.1.0.3"), unix.AF_INET}},
			Bound:    []Default{{p.eth0.Index, address("10.1.0.1"), unix.AF_INET}},
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b Default) bool { return a == b })); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
