// SPDX-License-Identifier: Apache-2.0

// Package dump reads whole tables of the kernel over netlink.
//
// The kernel does not hold a table still while it hands it out in pieces. Where
// it notices that the table changed meanwhile, it says so (NLM_F_DUMP_INTR):
// entries may be missing then, or stand twice. Such a dump is thrown away and
// asked for again, a bounded number of times.
package dump

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// attempts bounds how often a dump is asked for. An interruption needs a change
// within the milliseconds that a dump takes; ten in a row mean a host that
// changes faster than it can be read, and its next event brings the next try.
const attempts = 10

// answerTime is how long the kernel has for each answer, or each part of a dump. A question without an answer is an error:
// whoever asked goes on, and asks again later.
const answerTime = 10 * time.Second

func init() {
	if err := netlink.SetSocketTimeout(answerTime); err != nil { // of sockets that the library opens for one question
		panic(err)
	}
}

// Open opens a socket for questions to the kernel about the network namespace of the calling thread.
func Open() (*netlink.Handle, error) { return open(answerTime) }

func open(limit time.Duration) (*netlink.Handle, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	if err := handle.SetSocketTimeout(limit); err != nil {
		handle.Close()
		return nil, fmt.Errorf("limit the time of a netlink socket: %w", err)
	}
	return handle, nil
}

// Links returns every interface of the namespace.
func Links(nl *netlink.Handle) ([]netlink.Link, error) {
	return retry("interfaces", nl.LinkList)
}

// Addresses returns the IPv4 and IPv6 addresses of every interface, among them
// those that are tentative, deprecated or failed duplicate address detection.
func Addresses(nl *netlink.Handle) ([]netlink.Addr, error) {
	return retry("addresses", func() ([]netlink.Addr, error) {
		return nl.AddrList(nil, netlink.FAMILY_ALL)
	})
}

// Neighbours returns the ARP and neighbour discovery entries of every
// interface.
func Neighbours(nl *netlink.Handle) ([]netlink.Neigh, error) {
	return retry("neighbours", func() ([]netlink.Neigh, error) {
		return nl.NeighList(0, netlink.FAMILY_ALL)
	})
}

// retry repeats an interrupted dump. The error names what was listed.
func retry[T any](what string, list func() (T, error)) (T, error) {
	var err error
	for range attempts {
		var all T
		if all, err = list(); err == nil {
			return all, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	var none T
	return none, fmt.Errorf("list %s: %w", what, err)
}

// lacksFamily tells that the kernel has no such address family, as one that was
// started with ipv6.disable=1.
func lacksFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// TimesDown returns how often the carrier of an interface went down.
func TimesDown(index int) (uint32, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	about := nl.NewIfInfomsg(unix.AF_UNSPEC)
	about.Index = int32(index)
	request.AddData(about)
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil || len(messages) == 0 {
		return 0, fmt.Errorf("look at interface %d: %w", index, err)
	}
	var count uint32
	err = eachAttribute(messages[0][unix.SizeofIfInfomsg:], func(kind uint16, value []byte) error {
		if kind == unix.IFLA_CARRIER_DOWN_COUNT {
			count = binary.NativeEndian.Uint32(value)
		}
		return nil
	})
	return count, err
}
