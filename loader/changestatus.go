package loader

import (
	"log/slog"
	"path/filepath"
	"strings"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/hostsettings"
	"replypath/loader/identity"
	"replypath/loader/pins"
	"replypath/loader/source"
)

// hostChanges lists what detach is going to take back, by the names that interfaces
// have now. What went with its interface is not among it.
func (r *statusReader) hostChanges() ([]HostChange, error) {
	lives := &identity.Lives{
		Records: r.journal.Interfaces, Devices: datapath.DevicesIn(r.maps.Devices), Netlink: r.netlink,
		Log: slog.New(slog.DiscardHandler), // whoever leaves something as it is says so
	}
	changes := []HostChange{}
	for _, s := range r.journal.Sysctls {
		change, err := lives.Present(s)
		if err != nil {
			return nil, err
		}
		if change != nil {
			changes = append(changes, sysctlChange(change))
		}
	}
	repairs, err := repairChanges(r.repairs)
	if err != nil {
		return nil, err
	}
	changes = append(changes, repairs...)
	for _, q := range r.journal.Qdiscs {
		name, err := lives.NameOf(q.Interface, q.Name)
		if err != nil {
			return nil, err
		}
		if name != "" {
			changes = append(changes, qdiscChange(name))
		}
	}
	if cgroup := r.journal.SourceCgroup; cgroup != "" {
		change := sourceChange(cgroup)
		change.Undo = "rm " + strings.Join(source.Pins(filepath.Join(r.pinDir, datapath.LinksDir)), " ")
		changes = append(changes, change)
	}
	routes, err := lives.PresentFallback(r.journal.Fallback)
	return append(changes, fallbackChanges(routes)...), err
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
			changes = append(changes, sysctlChange(change))
		}
	}
	return changes, nil
}

func sysctlChange(c *hostsettings.Change) HostChange {
	return HostChange{Object: sysctlObject(c.Key), Before: c.Before, After: c.After, Undo: c.Undo()}
}

func sysctlObject(key string) string { return "sysctl " + key }

func qdiscChange(name string) HostChange {
	return HostChange{
		Object: "qdisc clsact on " + name, Before: "none", After: "clsact",
		Undo: "tc qdisc del dev " + name + " clsact",
	}
}

// sourceChange tells of programs on a cgroup: unlike those on interfaces, all UDP
// sockets of the host pay for them.
func sourceChange(cgroup string) HostChange {
	return HostChange{Object: "udp send programs on cgroup " + cgroup, Before: "none", After: "replypath_sendmsg4 and 6"}
}

// wouldChanges lists what enforcing would change. Where all is enforced by hand a daemon has done so.
func (r *statusReader) wouldChanges(byHand bpf.DatapathMode, running bool) []WouldChange {
	changes := []WouldChange{}
	if byHand == bpf.DatapathModeMODE_ENFORCE && running {
		return changes
	}
	for _, c := range r.journal.WouldChange {
		changes = append(changes, WouldChange(c))
	}
	return changes
}
