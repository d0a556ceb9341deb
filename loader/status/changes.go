// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"log/slog"
	"path/filepath"
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
	repairs, err := repairChanges(r.repairs)
	if err != nil {
		return err
	}
	changes = append(changes, repairs...)
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
		change.Undo = "rm " + strings.Join(source.Pins(filepath.Join(r.pinDir, datapath.LinksDir)), " ")
		changes = append(changes, change)
	}
	routes, err := lives.PresentFallback(r.journal.Fallback)
	s.HostChanges = append(changes, fallbackChanges(routes)...)
	return err
}

// repairChanges lists those that `replypath doctor --fix` made.
func repairChanges(repairs *pins.Repairs) ([]HostChange, error) {
	changes := []HostChange{}
	if repairs == nil {
		return changes, nil
	}
	for i := range repairs.Sysctls {
		change, err := identity.Repaired(&repairs.Sysctls[i])
		if err != nil {
			return nil, err
		}
		if change != nil {
			changes = append(changes, SysctlChange(change))
		}
	}
	return changes, nil
}

// SysctlChange tells of a sysctl.
func SysctlChange(c *hostsettings.Change) HostChange {
	return HostChange{Object: sysctlObject(c.Key), Before: c.Before, After: c.After, Undo: c.Undo()}
}

func sysctlObject(key string) string { return "sysctl " + key }

// SourceChange tells of programs on a cgroup: unlike those on interfaces, all UDP
// sockets of the host pay for them.
func SourceChange(cgroup string) HostChange {
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
		After: fmt.Sprintf("default routes by it of metric %d, protocol %d", fallback.Metric, discover.OwnProtocol),
		Undo:  "ip link del " + discover.OwnDevice,
	}
}

// BoundChanges tells of the routes for sockets that are bound to a device, and of what stands for all peers.
func BoundChanges(records []pins.BoundRecord) []HostChange {
	var changes []HostChange
	for _, r := range records {
		flag := ""
		if r.Family == unix.AF_INET6 {
			flag = "-6 "
		}
		changes = append(changes, HostChange{
			Object: fmt.Sprintf("%s default route by %s for sockets that are bound to it", fallback.Name(r.Family), r.Name),
			Before: "none",
			After:  fmt.Sprintf("via %s with metric %d", r.Gateway, discover.BoundMetric),
			Undo:   fmt.Sprintf("ip %sroute del default via %s dev %s metric %d", flag, r.Gateway, r.Name, discover.BoundMetric),
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
