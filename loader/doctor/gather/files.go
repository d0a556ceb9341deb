// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"replypath/loader/doctor/snapshot"
)

// setupFiles are those that a host's network is set up by.
var setupFiles = []string{
	"/etc/network/interfaces", "/etc/network/interfaces.d/*", "/etc/network/if-*.d/*", "/etc/rc.local",
	"/etc/systemd/network/*.network", "/etc/systemd/network/*.network.d/*.conf", "/etc/networkd-dispatcher/*/*", "/etc/systemd/system/*.service",
	"/etc/NetworkManager/system-connections/*", "/etc/NetworkManager/dispatcher.d/*", "/etc/netplan/*.yaml",
	"/etc/sysconfig/network-scripts/rule*-*", "/etc/sysconfig/network/ifrule-*",
}

// source is how all of them write the source of a rule: `from A`, `From=A`, `from: "A"`.
var source = regexp.MustCompile(`(?i)\bfrom["']?[ \t]*[ \t=:][ \t"']*([0-9a-f.:]+(?:/[0-9]+)?)`)

// files finds where sources are written, so that a rule can be taken out of the file that brings it back. The files are
// searched for words only: what else a line says, only who reads it at boot knows.
func (g *gatherer) files() error {
	g.host.Written = map[netip.Prefix][]string{}
	for _, pattern := range setupFiles {
		names, err := filepath.Glob(filepath.Join("/", g.Root, pattern))
		if _, denied := os.ReadDir(filepath.Join("/", g.Root, filepath.Dir(pattern))); errors.Is(denied, fs.ErrPermission) {
			err = denied // which Glob passes over
		}
		if err != nil {
			return fmt.Errorf("look for %s: %w", pattern, err)
		}
		for _, name := range names {
			if info, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
				continue // it has gone meanwhile, or is a directory
			}
			text, err := os.ReadFile(name)
			if err != nil {
				return fmt.Errorf("read a file of the network: %w", err)
			}
			shown, _ := filepath.Rel(filepath.Join("/", g.Root), name)
			noteSources(&g.host.Routing, "/"+shown, string(text))
		}
	}
	return nil
}

// noteSources notes the lines of a file that name a source outside of a comment.
func noteSources(t *snapshot.Routing, file, text string) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		for _, match := range source.FindAllStringSubmatch(line, -1) {
			p, err := netip.ParsePrefix(match[1])
			if a, noPrefix := netip.ParseAddr(match[1]); noPrefix == nil {
				p, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			if err == nil {
				t.Written[p.Masked()] = append(t.Written[p.Masked()], fmt.Sprintf("%s:%d", file, number))
			}
		}
	}
}
