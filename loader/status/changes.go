// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/hostsettings"
	"replypath/loader/identity"
	"replypath/loader/pins"
	"replypath/loader/source"
)

// changes lists what detach is going to take back, by the names that interfaces
// have now. What went with its interface is not among it.
func (r *reader) changes(s *Status) error {
	lives := &identity.Resolver{
		Records: r.journal.Interfaces, Devices: datapath.DevicesIn(r.maps.Devices), Netlink: r.netlink,
		Log: slog.New(slog.DiscardHandler), // whoever leaves something as it is says so
	}
	changes := []HostChange{}
	for _, record := range r.journal.Sysctls {
		change, err := lives.Present(record)
		if err != nil {
			return err
		}
		if change != nil {
			changes = append(changes, SysctlChange(change))
		}
	}
	for _, q := range r.journal.Qdiscs {
		name, err := lives.NameOf(q.Interface, q.Name)
		if err != nil {
			return err
		}
		if name != "" {
			changes = append(changes, HostChange{
				Object: "qdisc clsact on " + name, Before: "none", After: "clsact",
				Undo: "tc qdisc del dev " + name + " clsact",
			})
		}
	}
	if cgroup := r.journal.SourceCgroup; cgroup != "" {
		change := SourceChange(cgroup)
		change.Undo = "rm " + strings.Join(source.Pins(filepath.Join(pins.Shown(r.pinDir), datapath.LinksDir)), " ")
		changes = append(changes, change)
	}
	routes, err := lives.PresentFallback(r.journal.Fallback)
	if err != nil {
		return err
	}
	changes = append(changes, fallbackChanges(routes)...)
	ruled, err := fallback.RuledFamilies(r.netlink)
	for _, family := range ruled {
		changes = append(changes, ruleChange(family))
	}
	s.HostChanges = changes
	return err
}

// SysctlChange tells of a sysctl.
func SysctlChange(c *hostsettings.Change) HostChange {
	return HostChange{Object: sysctlObject(c.Key), Before: c.Before, After: c.After, Undo: c.Undo()}
}

func sysctlObject(key string) string { return "sysctl " + key }

// throughProcess begins the path of a cgroup that a process reached by the root of one that called it (source.Cgroup).
var throughProcess = regexp.MustCompile(`^/proc/\d+/root/`)

// SourceChange tells of programs on a cgroup: unlike those on interfaces, all UDP
// sockets of the host pay for them.
func SourceChange(cgroup string) HostChange {
	cgroup = throughProcess.ReplaceAllString(cgroup, "/")
	return HostChange{Object: "udp send programs on cgroup " + cgroup, Before: "none", After: "replypath_sendmsg4 and 6"}
}

// wouldChanges lists what enforcing would change. Where all is enforced by hand a daemon has done so.
func (r *reader) wouldChanges(byHand bpf.DatapathMode, running bool) []WouldChange {
	if byHand == bpf.DatapathModeMODE_ENFORCE && running {
		return []WouldChange{}
	}
	return append([]WouldChange{}, r.journal.WouldChange...)
}

// fallbackChanges tells of the device and its routes.
func fallbackChanges(r *pins.FallbackRecord) []HostChange {
	if r == nil || r.Index == 0 {
		return nil
	}
	return append([]HostChange{DeviceChange()}, BoundChanges(r.Bound)...)
}

// DeviceChange is the same whatever kind of device the kernel has.
func DeviceChange() HostChange {
	return HostChange{
		Object: "device " + discover.OwnDevice, Before: "none",
		After: fmt.Sprintf("routes by it in table %d, and ipv4's in table default, of protocol %d", fallback.Table, discover.OwnProtocol),
		Undo:  "ip link del " + discover.OwnDevice,
	}
}

// ruleChange tells of the rules that lead replies to the routes.
func ruleChange(family int) HostChange {
	return HostChange{
		Object: fallback.Name(family) + " rules for replies", Before: "none",
		After: fmt.Sprintf("from priority %d on, to table %d, of protocol %d", fallback.Priority, fallback.Table, discover.OwnProtocol),
		Undo:  fmt.Sprintf("ip %srule flush protocol %d", flagOf(family), discover.OwnProtocol),
	}
}

// flagOf has ip(8) work on a family.
func flagOf(family int) string {
	if family == unix.AF_INET6 {
		return "-6 "
	}
	return ""
}

// BoundChanges tells of the routes for sockets that are bound to a device, and of what stands for all peers.
func BoundChanges(records []pins.BoundRecord) []HostChange {
	var changes []HostChange
	for _, r := range records {
		changes = append(changes, HostChange{
			Object: fmt.Sprintf("%s default route by %s for sockets that are bound to it", fallback.Name(r.Family), r.Name),
			Before: "none",
			After:  fmt.Sprintf("via %s in table %d", r.Gateway, fallback.Table),
			Undo:   fmt.Sprintf("ip %sroute flush table all dev %s proto %d", flagOf(r.Family), r.Name, discover.OwnProtocol),
		})
		if r.Gateway == fallback.AnyPeer(r.Interface, r.Family).Gateway {
			changes = append(changes, HostChange{
				Object: fmt.Sprintf("neighbour entry of %s, which nobody has, on %s", r.Gateway, r.Name), Before: "none",
				After: fmt.Sprintf("permanent, with the mac %s, which nobody has", bpf.AnyPeer),
				Undo:  fmt.Sprintf("ip neigh del %s dev %s", r.Gateway, r.Name),
			})
		}
	}
	return changes
}
