// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode"

	"github.com/vishvananda/netlink"
)

const (
	// maxName is the longest interface name, IFNAMSIZ less its zero byte.
	maxName = 15
	// maxAltName is the longest alternative name, ALTIFNAMSIZ less its zero byte.
	maxAltName = 127
)

// ownDevice is the device that the loader makes for the fallback route.
const ownDevice = "replypath0"

// CheckInterfaceName says why a name, alternative name or glob can stand for no
// managed interface, nil where it can. Whether the interface exists does not
// matter, unless the name is so long that it can only be an alternative one: then
// a slip of the pen is likelier than an interface that is still to come. The rules are those of the kernel's dev_valid_name; an address label
// such as "eth0:1" is refused with the name to use.
func CheckInterfaceName(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if onlyAlternative(name) && !isAlternative(name) {
		return fmt.Errorf("%s is not an interface name: it is longer than %d characters, and no interface has it as its alternative name",
			quote(name), maxName)
	}
	switch name {
	case "lo":
		return fmt.Errorf("%q is the loopback interface, whose traffic is never touched: name one that leads to the network", name)
	case ownDevice:
		return fmt.Errorf("%q is replypath's own device: name one that leads to the network", name)
	}
	return nil
}

// checkName applies the rules that hold for any interface, managed or not.
func checkName(name string) error {
	switch {
	case name == "":
		return nameError(name, "it is empty")
	case name == "." || name == "..":
		return nameError(name, "the kernel reserves it")
	case len(name) > maxAltName:
		return fmt.Errorf("%s is not an interface name: it is longer than %d characters, or %d for an alternative name",
			quote(name), maxName, maxAltName)
	case strings.Contains(name, "/"):
		return nameError(name, "it contains a slash")
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return nameError(name, "it contains a space or a control character")
	}
	if device, _, isLabel := strings.Cut(name, ":"); isLabel {
		return labelError(name, device)
	}
	if _, err := path.Match(name, ""); err != nil {
		return fmt.Errorf("%q is not a glob: a bracket or a backslash is left open", name)
	}
	return nil
}

func nameError(name, reason string) error {
	return fmt.Errorf(`%s is not an interface name: %s: use one such as eth1, without a slash, colon, space or control character`,
		quote(name), reason)
}

// labelError tells which name to use in place of an address label: flows belong
// to the device, whatever ifconfig called one of its addresses.
func labelError(label, device string) error {
	if device == "" {
		return nameError(label, "it contains a colon")
	}
	return fmt.Errorf("%q is an address label, not an interface: use %q", label, device)
}

// IsGlob tells whether a name is a pattern for Match rather than a plain name.
func IsGlob(name string) bool { return strings.ContainsAny(name, `*?[\`) }

// globs counts the interfaces that are globs.
func (c *Config) globs() (count int) {
	for i := range c.Interfaces {
		if IsGlob(c.Interfaces[i].Name) {
			count++
		}
	}
	return count
}

// Match tells whether a configured name or glob stands for an interface that
// has this name or alternative name. Globs are those of path.Match.
func Match(pattern, name string) bool {
	switch pattern {
	case name:
		return true
	case dockerBridges:
		return dockerBridge.MatchString(name)
	}
	matched, err := path.Match(pattern, name)
	return err == nil && matched
}

// dockerBridges is the default glob of the bridges that Docker makes for networks. It matches no names but Docker's, which
// end in twelve hexadecimal digits (moby, libnetwork/drivers/bridge).
const dockerBridges = "br-????????????"

var dockerBridge = regexp.MustCompile(`^br-[0-9a-f]{12}$`)

// onlyAlternative tells a plain name that is too long for anything but an
// alternative name.
func onlyAlternative(name string) bool { return len(name) > maxName && !IsGlob(name) }

// isAlternative asks the kernel for an interface with this alternative name. Where
// it does not answer, the name has the benefit of the doubt.
func isAlternative(name string) bool {
	_, err := netlink.LinkByName(name)
	notFound := new(netlink.LinkNotFoundError)
	return !errors.As(err, notFound)
}
