// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Policy is how a router checks where packets come from.
type Policy int

// The policies.
const (
	// StrictSource drops what comes in by another interface than the one that the route back to its source leaves by:
	// strict unicast reverse path forwarding (RFC 3704, section 2.2), by rp_filter for IPv4 and by nftables' fib
	// expression for IPv6, which has no such sysctl.
	StrictSource Policy = iota
	// Stateful forwards what belongs to a connection that the router has seen begin, and new connections where Permit
	// allows them; it drops the rest.
	Stateful
	// AnySource forwards everything.
	AnySource
)

// String names the policy.
func (p Policy) String() string {
	switch p {
	case StrictSource:
		return "strict uRPF"
	case Stateful:
		return "stateful firewall"
	case AnySource:
		return "no source check"
	}
	return "policy " + strconv.Itoa(int(p))
}

// Router is a host that forwards both families.
type Router struct {
	*Host
	Policy Policy
}

// Router makes a router without interfaces.
func (n *Network) Router(name string, policy Policy) (*Router, error) {
	h, err := n.Host(name)
	if err != nil {
		return nil, err
	}
	r := &Router{Host: h, Policy: policy}
	if err := h.forward(); err != nil {
		return nil, err
	}
	if err := r.apply(); err != nil {
		return nil, h.errorf("set up %s: %w", policy, err)
	}
	return r, nil
}

// forward has the host forward both families.
func (h *Host) forward() error {
	settings := []setting{{"net/ipv4/ip_forward", "1"}}
	if !h.network.options.NoIPv6 {
		settings = append(settings, setting{"net/ipv6/conf/all/forwarding", "1"})
	}
	return h.setSysctls(settings)
}

func (r *Router) apply() error {
	switch r.Policy {
	case StrictSource:
		return errors.Join(r.SetSysctl("net/ipv4/conf/all/rp_filter", "1"), r.Do(addReversePathTable))
	case Stateful:
		// A segment in the middle of an unknown connection is no state.
		return errors.Join(r.nft(firewall), r.SetSysctl("net/netfilter/nf_conntrack_tcp_loose", "0"))
	default:
		return nil
	}
}

// Permit lets a stateful router forward new connections that come in by an interface from one of the prefixes. On other
// routers it does nothing.
func (r *Router) Permit(name string, from ...netip.Prefix) error {
	if r.Policy != Stateful {
		return nil
	}
	var rules strings.Builder
	for _, prefix := range from {
		family := map[Family]string{IPv4: "ip", IPv6: "ip6"}[FamilyOf(prefix.Addr())]
		fmt.Fprintf(&rules, "add rule inet firewall permitted iifname %q %s saddr %s accept\n", name, family, prefix)
	}
	return r.named(r.nft(rules.String()), "permit connections from %s", name)
}

// Drops returns how many packets the router's policy has dropped so far, both families together.
func (r *Router) Drops() (uint64, error) {
	drops, err := valueIn(r.Host, r.countDrops)
	return drops, r.named(err, "count drops")
}

func (r *Router) countDrops() (uint64, error) {
	switch r.Policy {
	case StrictSource:
		filtered, err := countReversePathFilter()
		if err != nil {
			return 0, err
		}
		dropped, err := countReversePathTable()
		return filtered + dropped, err
	case Stateful:
		return countFirewallTable()
	default:
		return 0, nil
	}
}

// countReversePathFilter reads what rp_filter dropped in the namespace of the calling thread.
func countReversePathFilter() (count uint64, err error) {
	f, err := os.Open("/proc/thread-self/net/netstat")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return parseNetstat(f, "TcpExt", "IPReversePathFilter")
}

// parseNetstat finds a counter in a file that has, for each group, one line with names and one with values.
func parseNetstat(r io.Reader, group, name string) (uint64, error) {
	var names []string
	for lines := bufio.NewScanner(r); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] != group+":" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, n := range names {
			if n == name && i < len(fields) {
				return strconv.ParseUint(fields[i], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("no counter %s in group %s", name, group)
}
