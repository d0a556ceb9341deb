package discover

import (
	"net/netip"
	"strings"
	"testing"

	"replypath/loader/config"
	"replypath/test/topology"
)

// newHost returns a host with no interface but lo.
func newHost(t *testing.T) *topology.Host {
	t.Helper()
	n := topology.New(topology.Options{})
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	h, err := n.Host("host")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// ip runs commands of ip(8) on the host, one a line.
func ip(t *testing.T, h *topology.Host, batch string) {
	t.Helper()
	c := h.Command(t.Context(), "ip", "-batch", "-")
	c.Stdin = strings.NewReader(batch)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("ip: %v\n%s", err, out)
	}
}

// scan scans a host.
func scan(t *testing.T, h *topology.Host, cfg *config.Config) Result {
	t.Helper()
	r, err := Scan(h.Netlink(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// named returns the default configuration with these interfaces.
func named(interfaces ...config.Interface) *config.Config {
	cfg := config.Default()
	cfg.Interfaces = interfaces
	return cfg
}

// names lists the managed interfaces.
func names(r Result) []string {
	var names []string
	for _, i := range r.Interfaces {
		names = append(names, i.Name)
	}
	return names
}

// reasons tells why the others are not managed.
func reasons(r Result) map[string]string {
	reasons := map[string]string{}
	for _, u := range r.Unmanaged {
		reasons[u.Name] = u.Reason
	}
	return reasons
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func address(s string) netip.Addr { return netip.MustParseAddr(s) }
