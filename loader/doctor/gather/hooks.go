// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/doctor/snapshot"
)

// ourPrefix begins the names of our programs and filters.
const ourPrefix = "replypath_"

// hooks lists programs and filters of interfaces, in the order in
// which they run: those of TCX before the filters of a clsact qdisc.
func (g *gatherer) hooks() error {
	found := &g.host.Hooked
	ours, err := ourPrograms(g.PinDir)
	if err != nil {
		return err
	}
	qdiscs, err := g.netlink.QdiscList(nil)
	if err != nil && !hasNone(err) {
		return err
	}
	for _, q := range qdiscs {
		if q.Type() == "ingress" {
			found.Ingress = append(found.Ingress, q.Attrs().LinkIndex)
		}
	}
	for _, i := range g.host.Interfaces {
		for _, egress := range []bool{false, true} {
			programs, tcx, err := tcxPrograms(i.Index, egress, ours)
			var others []snapshot.Hook
			var err2 error
			if !egress || !slices.Contains(found.Ingress, i.Index) { // which lists its filters for either
				others, err2 = filters(g.netlink, i.Index, egress)
			}
			if err := cmp.Or(err, err2); err != nil {
				return fmt.Errorf("look at the tc hooks of %s: %w", i.Name, err)
			}
			found.Hooks, found.TCX = slices.Concat(found.Hooks, programs, others), found.TCX || tcx
		}
	}
	return nil
}

// tcxPrograms tells also whether the kernel has TCX; it returns none where it has not (EINVAL).
func tcxPrograms(device int, egress bool, ours []ebpf.ProgramID) (hooks []snapshot.Hook, known bool, err error) {
	hook := ebpf.AttachTCXIngress
	if egress {
		hook = ebpf.AttachTCXEgress
	}
	result, err := link.QueryPrograms(link.QueryOptions{Target: device, Attach: hook})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.ENODEV) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	for _, p := range result.Programs {
		name := programName(p.ID)
		hooks = append(hooks, snapshot.Hook{
			Interface: device, Egress: egress, TCX: true, Name: name,
			Ours: slices.Contains(ours, p.ID) || strings.HasPrefix(name, ourPrefix),
		})
	}
	return hooks, true, nil
}

// ourPrograms returns the programs of the pinned links. To read a program's name
// takes CAP_SYS_ADMIN, to open a pin does not.
func ourPrograms(pinDir string) ([]ebpf.ProgramID, error) {
	pinned, err := filepath.Glob(filepath.Join(pinDir, datapath.LinksDir, "*"))
	if err != nil {
		return nil, err
	}
	var ids []ebpf.ProgramID
	for _, path := range pinned {
		l, err := link.LoadPinnedLink(path, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("open pinned link %s: %w", path, err)
		}
		info, err := l.Info()
		if err := errors.Join(err, bpf.Close(l)); err != nil {
			return nil, fmt.Errorf("look at pinned link %s: %w", path, err)
		}
		ids = append(ids, info.Program)
	}
	return ids, nil
}

// programName returns a program's name, or its number where it cannot be read or
// has gone meanwhile.
func programName(id ebpf.ProgramID) string {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprint(id)
	}
	defer bpf.Close(program)
	info, err := program.Info()
	if err != nil || info.Name == "" {
		return fmt.Sprint(id)
	}
	return info.Name
}

// hasNone tells an error of tc where there is no qdisc with filters, or the kernel knows none.
func hasNone(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP)
}

// filters lists those of a hook.
func filters(handle *netlink.Handle, device int, egress bool) ([]snapshot.Hook, error) {
	var parent uint32 = netlink.HANDLE_MIN_INGRESS
	if egress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	list, err := handle.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: device}}, parent)
	if hasNone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var hooks []snapshot.Hook
	for _, f := range list {
		name := fmt.Sprintf("%s of priority %d", f.Type(), f.Attrs().Priority)
		ours := false
		if b, ok := f.(*netlink.BpfFilter); ok {
			name, ours = fmt.Sprintf("%s (%s)", name, b.Name), strings.HasPrefix(b.Name, ourPrefix)
		}
		hooks = append(hooks, snapshot.Hook{Interface: device, Egress: egress, Name: name, Ours: ours, Redirects: redirects(f)})
	}
	return hooks, nil
}

// redirects tells a filter with the action mirred redirect.
func redirects(f netlink.Filter) bool {
	var actions []netlink.Action
	switch f := f.(type) {
	case *netlink.MatchAll:
		actions = f.Actions
	case *netlink.U32:
		actions = f.Actions
	case *netlink.Flower:
		actions = f.Actions
	}
	return slices.ContainsFunc(actions, func(a netlink.Action) bool {
		m, is := a.(*netlink.MirredAction)
		return is && (m.MirredAction == netlink.TCA_EGRESS_REDIR || m.MirredAction == netlink.TCA_INGRESS_REDIR)
	})
}
