// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"errors"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Link is what tells from an event whether its interface can be one that matters.
type Link struct {
	Index int
	Name  string
	Kind  string // "veth", "bridge", ...; empty where the message does not tell
}

// errLink tells of an interface that the kernel would not send.
var errLink = errors.New("a message about an interface makes no sense")

// ParseLink reads a message about an interface, without its netlink header.
func ParseLink(message []byte) (Link, error) {
	if len(message) < unix.SizeofIfInfomsg {
		return Link{}, errLink
	}
	l := Link{Index: int(nl.DeserializeIfInfomsg(message).Index)}
	err := eachAttribute(message[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = text(value)
		case unix.IFLA_LINKINFO:
			return eachAttribute(value, func(kind uint16, value []byte) error {
				if kind == nl.IFLA_INFO_KIND {
					l.Kind = text(value)
				}
				return nil
			})
		}
		return nil
	})
	return l, err
}

func text(value []byte) string { return strings.TrimRight(string(value), "\x00") }
