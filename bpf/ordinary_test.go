package bpf_test

import (
	"net/netip"
	"testing"
)

// TestAdmissionZeros: a global address may have zeros where those that start nothing have them.
func TestAdmissionZeros(t *testing.T) {
	for _, address := range []string{"0:0:1::1", "::1:0:0:1", "::2", "::1:0"} {
		t.Run(address, func(t *testing.T) {
			b, n := newBed(t, normal), networks[1]
			n.peer = netip.MustParseAddr(address)
			b.run(ingress(b.replication, n.in(b.replication, syn)), b.starts(n, syn, b.replication))
		})
	}
}
