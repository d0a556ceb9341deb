// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"slices"
	"strings"

	"replypath/loader/netfilter"
)

// Firewall is what nf_tables holds, and what else handles packets of connections.
type Firewall struct {
	netfilter.Ruleset
	Firewalld *Firewalld // nil: not installed
	IPVS      int        // virtual services of the kernel's load balancer
}

// Firewalld is what its configuration says.
type Firewalld struct {
	File         string
	IPv6RPFilter string // as written, "yes" where the file does not say
	Enabled      bool   // systemd starts it at boot
}

// IsStrict follows firewalld.conf(5): yes is the default and means strict.
func (f *Firewalld) IsStrict() bool {
	return slices.Contains([]string{"yes", "true", "strict"}, strings.ToLower(f.IPv6RPFilter))
}
