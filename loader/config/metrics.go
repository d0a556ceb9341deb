// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

func (m *Metrics) set(v value) error {
	return v.object("a map", m.fields())
}

func (m *Metrics) fields() []field {
	return []field{
		{"listen", checked(&m.Listen, `an address such as "127.0.0.1:9945"`, checkListen)},
		{"web_config_file", func(v value) error {
			path, err := v.text(`the absolute path of a file, or ""`)
			if err == nil && path != "" && !strings.HasPrefix(path, "/") {
				err = v.errorf("%s is not an absolute path: begin it with a slash", v)
			}
			m.WebConfigFile, m.Origin = path, Origin{File: v.file, Line: v.line}
			return err
		}},
	}
}

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

// longestHostName is that of DNS (RFC 1035, 2.3.4).
const longestHostName = 253

// isHostName tells whether a resolver could know the name. The empty name, all
// addresses, passes; what looks like a mistyped IPv4 address does not.
func isHostName(host string) bool {
	if consistsOf(host, digits+".") {
		return host == ""
	}
	return len(host) <= longestHostName && consistsOf(host, letters+digits+".-_")
}
