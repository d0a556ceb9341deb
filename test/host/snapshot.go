// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
)

// Snapshot is the state of a host as an operator's tools show it, by command.
type Snapshot map[string]string

// snapshotCommands show everything that a product like this could have left on a host, and nothing that changes by
// itself.
var snapshotCommands = []string{
	"tc qdisc show",
	"tc filter show",
	"bpftool net show",
	"ip -4 -details route show table all",
	"ip -6 -details route show table all",
	"ip -4 rule show",
	"ip -6 rule show",
	"ip -details link show",
	"ip address show",
	"ip neighbour show proxy",
	"ip nexthop show",
	"nft list ruleset",
}

// TakeSnapshot looks at a host with iproute2, bpftool and nft, reads every sysctl of its network namespace, and asks
// the kernel for the programs that act on it and for the neighbours that somebody has set. Devices have to be named for
// tc to show their filters.
func TakeSnapshot(t testing.TB, host *topology.Host, devices ...string) Snapshot {
	t.Helper()
	s := make(Snapshot)
	commands := slices.Clone(snapshotCommands)
	for _, device := range devices {
		for _, hook := range []string{"ingress", "egress"} {
			commands = append(commands, "tc filter show dev "+device+" "+hook)
		}
	}
	for _, command := range commands {
		args := strings.Fields(command)
		c := host.Command(await.Within(t, product.CommandTime), args[0], args[1:]...)
		// What it says beside is about the machine: `ip` complains there of every named namespace that comes or goes.
		var said bytes.Buffer
		c.Stderr = &said
		output, err := c.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, &said)
		}
		s[command] = string(output)
	}
	await.Must(t, host.Do(func() error { return s.addSysctls("/proc/sys/net") }))
	await.Must(t, host.Do(func() error { return s.addTCX(devices) }))
	await.Must(t, host.Do(s.addCgroups))
	s.addNeighbours(t, host)
	return s
}

// Diff describes what a later snapshot has that this one has not, and the other way round; empty if nothing.
func (s Snapshot) Diff(later Snapshot) string { return cmp.Diff(s, later) }

// addTCX lists the programs of the TCX hooks, which Debian 12's bpftool does not know, in the namespace of the calling
// thread.
func (s Snapshot) addTCX(devices []string) error {
	for _, device := range devices {
		i, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		for hook, kind := range map[string]ebpf.AttachType{"ingress": ebpf.AttachTCXIngress, "egress": ebpf.AttachTCXEgress} {
			result, err := link.QueryPrograms(link.QueryOptions{Target: i.Index, Attach: kind})
			if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
				return nil // a kernel without such hooks
			}
			if err != nil {
				return fmt.Errorf("list the tcx programs of %s: %w", device, err)
			}
			s["tcx "+device+" "+hook] = fmt.Sprint(result.Programs)
		}
	}
	return nil
}

// sysctlsThatMove show what goes on rather than what is set.
var sysctlsThatMove = map[string]bool{
	"/proc/sys/net/netfilter/nf_conntrack_count": true,
}

// addSysctls reads the files below a directory in the namespace of the calling thread.
func (s Snapshot) addSysctls(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a device has just gone
		}
		if err != nil || entry.IsDir() || sysctlsThatMove[path] {
			return err
		}
		if value, err := os.ReadFile(path); err == nil { // some can only be written
			s[path] = string(value)
		}
		return nil
	})
}

// Pins lists what there is on the bpf file system of the tests, of which others may remove something meanwhile.
func Pins(t testing.TB) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(product.BpfDir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != product.BpfDir {
			return nil
		}
		if err == nil && path != product.BpfDir {
			found = append(found, path)
		}
		return err
	})
	await.Must(t, err)
	return found
}
