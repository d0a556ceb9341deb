// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"cmp"
	"slices"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
)

// Bystanders are the interfaces of containers and virtual machines that a scan has left out. They come and go by the
// hundred. As long as none can become managed, only the list of those left out changes with them. They follow events.
type Bystanders struct {
	cfg    *config.Config
	chosen map[int]bool // by index
	left   map[int]bystander
}

// bystander is what of an interface that was left out decides.
type bystander struct {
	name, kind string
	addressed  bool // has a global address
}

// newBystanders returns those of a scan.
func newBystanders(cfg *config.Config) *Bystanders {
	return &Bystanders{cfg: cfg, chosen: make(map[int]bool), left: make(map[int]bystander)}
}

func (b *Bystanders) leave(d *device) {
	b.left[d.link.Attrs().Index] = bystander{d.name(), kindOf(d.link.Type()), len(d.addresses) > 0}
}

// kindOf is what the kernel calls a type of the netlink library.
func kindOf(libraryType string) string {
	if libraryType == "tuntap" {
		return "tun"
	}
	return libraryType
}

// Note notes an event about an interface, and tells whether it is a bystander after it, as it was before if it was there. An
// address that it gets is told by an event of its own.
func (b *Bystanders) Note(link dump.Link, removed bool) bool {
	if b == nil || b.chosen[link.Index] {
		return false
	}
	before, isKnown := b.left[link.Index]
	now := bystander{link.Name, cmp.Or(link.Kind, before.kind), before.addressed}
	if link.HasAltNames && b.cfg.Interfaces != nil || !b.leaves(now) || isKnown && !b.leaves(before) {
		return false
	}
	if removed {
		delete(b.left, link.Index)
	} else {
		b.left[link.Index] = now
	}
	return true
}

// leaves tells whether a scan leaves an interface out, whatever its master and its state are. Nothing else depends on such
// kinds: they have no ports, and make no bridge one with an uplink.
func (b *Bystanders) leaves(i bystander) bool {
	matches := func(pattern string) bool { return config.Match(pattern, i.name) }
	isNamed := func(entry config.Interface) bool { return matches(entry.Name) }
	switch {
	case i.kind != "veth" && i.kind != "tun" || i.name == OwnDevice:
		return false
	case b.cfg.Interfaces != nil:
		return !slices.ContainsFunc(b.cfg.Interfaces, isNamed)
	}
	return !i.addressed || slices.ContainsFunc(b.cfg.IgnoreInterfaces, matches)
}
