// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"net/netip"
	"testing"

	"replypath/loader/config"
	"replypath/test/await"
	"replypath/test/topology"
)

// scan scans a host.
func scan(t *testing.T, h *topology.Host, cfg *config.Config) Result {
	t.Helper()
	var r Result
	await.Must(t, h.Do(func() (err error) {
		r, err = Scan(h.Netlink(), cfg)
		return err
	}))
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
