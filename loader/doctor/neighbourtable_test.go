// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/hostsettings"
	"replypath/test/await"
	"replypath/test/testhost"
)

// ownMachineVariable is set where the machine is there for the tests alone, so that they may change what all of its
// network namespaces share.
const ownMachineVariable = "REPLYPATH_TEST_OWN_MACHINE"

// TestNeighbourTableOfTheKernel fills the neighbour tables of the machine, and has doctor find that, and say what has
// room. Their limits are those of all network namespaces and seen in the first one only: `make test-kernels` runs it,
// in virtual machines.
func TestNeighbourTableOfTheKernel(t *testing.T) {
	if os.Getenv(ownMachineVariable) == "" {
		t.Skip("it changes the limits of the machine's neighbour tables: for a virtual machine of its own")
	}
	const entries, unlimited = 100, 1 << 16
	for family, network := range map[int]netip.Prefix{unix.AF_INET: testhost.Prefix("10.99.0.1/16"), unix.AF_INET6: testhost.Prefix("2001:db8:99::1/64")} {
		t.Run(snapshot.FamilyName[family], func(t *testing.T) {
			table := newTable(t, family, network)
			table.limit(unlimited, unlimited, unlimited) // nothing is collected while it fills
			for range entries {
				await.Must(t, table.add())
			}
			table.limit(unlimited, 4*entries, 8*entries)
			table.want(OK, "gc_thresh2 400, gc_thresh3 800")
			table.limit(unlimited, entries-1, 8*entries)
			table.want(Warning, "gc_thresh2 99, gc_thresh3 800")
			table.limit(unlimited, entries, entries)
			table.want(Error, "gc_thresh3 512 and gc_thresh2 256 have room")
			table.limit(unlimited, 256, 512)
			table.want(OK, "gc_thresh2 256, gc_thresh3 512")

			table.limit(unlimited, entries, entries)
			table.overflow(10 * entries)
			table.limit(unlimited, 512, 1024)
			table.want(Warning, "times full since the host started: who has no entry gets no packet: gc_thresh3 2048 and gc_thresh2 1024 have room")
			table.limit(unlimited, 1024, 2048)
			table.want(OK, "gc_thresh2 1024, gc_thresh3 2048")
		})
	}
}

// kernelTable is the kernel's neighbour table of a family, with a device that entries are made on.
type kernelTable struct {
	*testing.T
	family int
	device netlink.Link
	next   netip.Addr
}

func newTable(t *testing.T, family int, network netip.Prefix) *kernelTable {
	t.Helper()
	table := &kernelTable{T: t, family: family, next: network.Addr()}
	before := make(map[string]string)
	for _, n := range []string{"1", "2", "3"} {
		value, err := hostsettings.Read(table.threshold(n))
		await.Must(t, err)
		before[n] = value
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "neighbours0"
	await.Must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "neighbours1"}))
	var err error
	table.device, err = netlink.LinkByName(attrs.Name)
	await.Must(t, err)
	t.Cleanup(func() {
		await.Must(t, netlink.LinkDel(table.device))
		for n, value := range before {
			table.set(n, value)
		}
	})
	await.Must(t, netlink.LinkSetUp(table.device))
	await.Must(t, netlink.AddrAdd(table.device, &netlink.Addr{
		IPNet: &net.IPNet{IP: network.Addr().AsSlice(), Mask: net.CIDRMask(network.Bits(), network.Addr().BitLen())}, Flags: unix.IFA_F_NODAD,
	}))
	return table
}

func (k *kernelTable) threshold(n string) string {
	return "net." + snapshot.FamilyName[k.family] + ".neigh.default.gc_thresh" + n
}

func (k *kernelTable) set(n, value string) {
	k.Helper()
	change, err := hostsettings.Plan(k.threshold(n), value)
	await.Must(k.T, err)
	if change != nil {
		await.Must(k.T, change.Make())
	}
}

func (k *kernelTable) limit(thresh1, thresh2, thresh3 int) {
	k.Helper()
	for n, value := range []int{thresh1, thresh2, thresh3} {
		k.set(strconv.Itoa(n+1), strconv.Itoa(value))
	}
}

// add makes an entry for another host of the device's network.
func (k *kernelTable) add() error {
	k.next = k.next.Next()
	return netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: k.device.Attrs().Index, Family: k.family, State: netlink.NUD_STALE,
		IP: k.next.AsSlice(), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9},
	})
}

// overflow makes entries until there is no room. The kernel collects those of more than five seconds ago at first
// (neigh_forced_gc).
func (k *kernelTable) overflow(most int) {
	k.Helper()
	for range most {
		err := k.add()
		if errors.Is(err, unix.ENOBUFS) {
			return
		}
		await.Must(k.T, err)
	}
	k.Fatalf("the table was never full in %d entries", most)
}

// want wants one finding about the table, which is never mended: other namespaces share it.
func (k *kernelTable) want(severity finding.Severity, words string) {
	k.Helper()
	all, err := Examine(Options{PinDir: filepath.Join(k.TempDir(), "pins"), Config: config.Default(), Root: k.TempDir()})
	await.Must(k.T, err)
	var found []Finding
	for _, f := range all {
		if f.Check == "neighbour-table" && strings.HasPrefix(f.Found, snapshot.FamilyName[k.family]+": ") {
			found = append(found, f)
		}
	}
	if len(found) != 1 || found[0].Fix != nil || found[0].Severity != severity || !strings.Contains(found[0].Found, words) {
		k.Fatalf("found %q, not one %s with %q", testhost.Lines(found), severity, words)
	}
	k.Log(testhost.Lines(found)[0])
}
