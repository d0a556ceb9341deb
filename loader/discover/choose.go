// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"fmt"
	"slices"

	"replypath/loader/config"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

// notNamed is why a device is left out that entries could name, and none does.
const notNamed = "not named by the configuration"

// choose decides about one device: the reason is empty where it is managed, and
// the settings are nil where the configuration does not name it.
//
// A configuration that has entries manages what they name and nothing else, and
// overrules what discovery leaves out. Only what cannot work is refused.
func (ds *devices) choose(d *device, cfg *config.Config) (*config.Interface, string) {
	if reason := ds.unfit(d); reason != "" {
		return nil, reason
	}
	if cfg.Interfaces == nil {
		return nil, ds.skipped(d, cfg.IgnoreInterfaces)
	}
	entry := Entry(cfg.Interfaces, d.name(), d.link.Attrs().AltNames)
	if entry == nil {
		return nil, notNamed
	}
	return entry, d.cutOut(entry, cfg.IgnoreInterfaces)
}

// unfit says why a device can never be managed, even if it is named.
func (ds *devices) unfit(d *device) string {
	if reason := ds.unseen(d); reason != "" {
		return reason
	}
	return openTunnel(d.link)
}

// unseen says why no program of ours sees the packets of a device as IP sends them by it.
func (ds *devices) unseen(d *device) string {
	switch {
	case d.isLoopback():
		return "loopback"
	case d.name() == OwnDevice:
		return "replypath's own device"
	case d.link.Type() == "vrf":
		// Neither hook of TC sees a VRF's traffic on the VRF itself.
		return "a VRF: its ports count"
	case !hasEthernetHeader(d.link) && !d.hasNoHeader():
		return fmt.Sprintf("link type %s is not supported", d.link.Attrs().EncapType)
	}
	if master := ds.master(d); master != "" {
		return "a port of " + master + ", which counts in its place"
	}
	return ""
}

// master names the bond, bridge, team or the like that takes a device's frames
// from it before IP sees them. The ports of a VRF keep theirs.
func (ds *devices) master(d *device) string {
	index := d.link.Attrs().MasterIndex
	if index == 0 {
		return ""
	}
	master := ds.byIndex[index]
	switch {
	case master == nil:
		return fmt.Sprintf("interface %d", index)
	case master.link.Type() == "vrf":
		return ""
	}
	return master.name()
}

// skipped says why discovery leaves a device out.
func (ds *devices) skipped(d *device, ignore []string) string {
	if reason := d.ignored(ignore); reason != "" {
		return reason
	}
	switch {
	case d.link.Type() == "dummy":
		return "dummy device"
	case ds.isInternal(d):
		return "bridge with no port but veth or tap"
	case len(d.addresses) == 0 && d.before == nil && !d.connects():
		return pins.ReasonNoAddress
	}
	return ""
}

// connects tells the kinds of device that connect a host with a network whether or not they have an address: requests for
// an address of another interface, or of none, may arrive there. A physical NIC has no kind of its own, which the netlink
// library calls "device". A modem that routes lead out of may have none either.
func (d *device) connects() bool {
	return slices.Contains([]string{"device", "bond", "team", "vlan", "macvlan", "bridge"}, d.link.Type()) || d.isUplink() && d.leads
}

// isInternal tells a bridge that connects containers or virtual machines
// with each other and the host, but not with a network. One without ports
// connects nothing at all, as docker0 and virbr0 before the first guest. It is
// looked at again when a port joins. One that routes lead out of has a router among its
// virtual machines. A single guest may be one to which no route leads yet, unless this host is the router of its guests.
// Where others join it, or it goes, the bridge stays managed: to attach again at each would keep the programs in doubt of
// what the host sends (datapath.Grace).
func (ds *devices) isInternal(d *device) bool {
	return ds.guests(d) >= 0 && !d.hasLed() && (d.before == nil && !ds.hasLoneGuest(d) || !d.forwardsNothing())
}

// hasLoneGuest tells a bridge with an address and one guest.
func (ds *devices) hasLoneGuest(d *device) bool { return ds.guests(d) == 1 && len(d.addresses) > 0 }

// forwardsNothing tells whether the host keeps all that comes in by a device.
func (d *device) forwardsNothing() bool {
	ipv4, ipv6 := hostsettings.ForwardsNothing(d.name())
	return ipv4 && ipv6
}

// guests counts the containers and virtual machines that are all that a bridge has ports to; -1 for any other device.
func (ds *devices) guests(d *device) (n int) {
	if d.link.Type() != "bridge" {
		return -1
	}
	for _, port := range ds.list {
		switch {
		case port.link.Attrs().MasterIndex != d.link.Attrs().Index:
		case !isOfGuest(port.link.Type()):
			return -1
		default:
			n++
		}
	}
	return n
}

// unmatched warns of entries of the configuration that have no effect yet, and
// of those that name what cannot be managed.
func (ds *devices) unmatched(cfg *config.Config, unmanaged []Unmanaged) []string {
	var warnings, names []string
	for _, u := range unmanaged {
		if u.Reason == notNamed {
			names = append(names, u.Name)
		}
	}
	for _, entry := range cfg.Interfaces {
		if warning := ds.unmatchedEntry(entry.Name, names); warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return warnings
}

func (ds *devices) unmatchedEntry(name string, unnamed []string) string {
	refused := ""
	for _, d := range ds.list {
		if !d.matches(name) {
			continue
		}
		reason := ds.unfit(d)
		if reason == "" {
			return ""
		}
		refused = fmt.Sprintf("interface %s is not managed: %s", name, reason)
	}
	switch {
	case config.IsGlob(name):
		return fmt.Sprintf("no interface matches %q yet: what appears is managed then", name)
	case refused != "":
		return refused
	}
	warning := NotThere(name) + ": it is managed once it appears"
	if near := config.Nearest(name, unnamed); near != "" {
		warning += "; " + near + " is there"
	}
	return warning
}

// NotThere says that no interface has a configured name.
func NotThere(name string) string { return "interface " + name + " is not there yet" }

// withoutHeader warns of last-hop on devices whose frames begin with the IP header, and have no MAC address.
func (r *Result) withoutHeader() []string {
	var warnings []string
	for _, i := range r.Interfaces {
		if i.MAC == nil && i.Settings.NextHop == config.NextHopLastHop {
			warnings = append(warnings, fmt.Sprintf("interface %s has no ethernet header: next_hop last-hop is served as auto there", i.Name))
		}
	}
	return warnings
}
