// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// BlameWebConfig blames WebConfigFile for what is wrong with the file that it
// names. The error matches ErrInvalid, and the cause.
func (m *Metrics) BlameWebConfig(cause error) error {
	return &Error{
		File: m.Origin.File, Line: m.Origin.Line, Key: "metrics.web_config_file",
		Message: cause.Error() + `: name a valid web configuration, or "" for none`, Err: cause,
	}
}

// Same tells whether both ask for the same, on whatever line.
func (m *Metrics) Same(other *Metrics) bool {
	return m.Listen == other.Listen && m.WebConfigFile == other.WebConfigFile
}

// checkListen says why an address is none that a TCP server can listen on. ""
// switches the server off; a host may be an address, a name or absent; port 0
// lets the kernel choose one.
func checkListen(address string) error {
	if address == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return listenError(address, "is not an address and a port")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return listenError(address, "has no port from 0 to 65535")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Is4In6() {
			return fmt.Errorf("%s is an ipv4-mapped address: write %s", quote(address), net.JoinHostPort(ip.Unmap().String(), port))
		}
		return nil
	}
	if !isHostName(host) {
		return listenError(address, "has no valid host")
	}
	return nil
}

func listenError(address, what string) error {
	return fmt.Errorf(`%s %s: use one such as 127.0.0.1:9945, [::1]:9945 or :9945, or "" for none`, quote(address), what)
}

// checkPath says why a path is not absolute. "" is none.
func checkPath(path string) error {
	if path != "" && !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%s is not an absolute path: begin it with a slash", quote(path))
	}
	return nil
}

// hostName is bounded by DNS (RFC 1035, 2.3.4). dotted looks like a mistyped IPv4 address.
var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9._-]{0,253}$`)
	dotted   = regexp.MustCompile(`^[0-9.]+$`)
)

// isHostName tells whether a resolver could know the name. The empty name, all
// addresses, passes.
func isHostName(host string) bool { return hostName.MatchString(host) && !dotted.MatchString(host) }
