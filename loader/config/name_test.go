// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
)

func TestCheckInterfaceName(t *testing.T) {
	for _, name := range []string{"eth0", "eth0.100", "en*", "enp129s0f1np1v*", "wlp2s0", "br-0a1b2c", "eth[01]", "ens?", "123", "..."} {
		if err := CheckInterfaceName(name); err != nil {
			t.Errorf("CheckInterfaceName(%q): %v", name, err)
		}
	}
	const allowed = `: use one such as eth1, without a slash, colon, space or control character`
	refused := map[string]string{
		"":                       `"" is not an interface name: it is empty` + allowed,
		".":                      `"." is not an interface name: the kernel reserves it` + allowed,
		"..":                     `".." is not an interface name: the kernel reserves it` + allowed,
		"eth/0":                  `"eth/0" is not an interface name: it contains a slash` + allowed,
		"eth 0":                  `"eth 0" is not an interface name: it contains a space or a control character` + allowed,
		"eth\x00":                `"eth\x00" is not an interface name: it contains a space or a control character` + allowed,
		"eth0:1":                 `"eth0:1" is an address label, not an interface: use "eth0"`,
		"bond0.7:nfs":            `"bond0.7:nfs" is an address label, not an interface: use "bond0.7"`,
		":1":                     `":1" is not an interface name: it contains a colon` + allowed,
		"eth[0":                  `"eth[0" is not a glob: a bracket or a backslash is left open`,
		"lo":                     `"lo" is the loopback interface, whose traffic is never touched: name one that leads to the network`,
		"replypath0":             `"replypath0" is replypath's own device: name one that leads to the network`,
		"enp129s0f1np1v12":       `"enp129s0f1np1v12" is not an interface name: it is longer than 15 characters, and no interface has it as its alternative name`,
		strings.Repeat("b", 128): `"` + strings.Repeat("b", 60) + `..." is not an interface name: it is longer than 15 characters, or 127 for an alternative name`,
	}
	for name, want := range refused {
		if err := CheckInterfaceName(name); err == nil || err.Error() != want {
			t.Errorf("CheckInterfaceName(%q)\n got %v\nwant %s", name, err, want)
		}
	}
}
