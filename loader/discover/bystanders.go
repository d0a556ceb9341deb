// SPDX-License-Identifier: Apache-2.0

package discover

// Bystanders are the interfaces of containers and virtual machines that a scan has left out, by index. They come and go by
// the hundred: what is told of them alone may wait. They follow events.
type Bystanders map[int]bool

// isOfGuest tells such kinds, as the netlink library calls them. Nothing else depends on them but whether a bridge has a single
// guest, which may wait: they have no ports, and make no bridge one with an uplink.
func isOfGuest(kind string) bool { return kind == "veth" || kind == "tuntap" }

// Note notes an event about an interface that is not managed, and tells whether it is a bystander. An address that it gets is told
// by an event of its own. Messages about a port of a bridge do not tell its kind.
func (b Bystanders) Note(index int, kind string, removed bool) bool {
	is := b != nil && (b[index] || isOfGuest(kind))
	if is && !removed {
		b[index] = true
	} else {
		delete(b, index)
	}
	return is
}
