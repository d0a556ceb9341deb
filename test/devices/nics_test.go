// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestNICs has the server's ways be NICs that QEMU emulates, each with its own driver, and a VLAN on one of them. The suite
// nics of test-kernels has such NICs. Elsewhere they are veth which hand packets up in lists, as a driver does.
func TestNICs(t *testing.T) {
	for driver := range strings.SplitSeq(cmp.Or(os.Getenv("REPLYPATH_TEST_NICS"), "veth"), ",") {
		t.Run(driver, func(t *testing.T) { testNICs(t, driver) })
	}
}

func testNICs(t *testing.T, driver string) {
	s := newSite(t, nic(driver), nic(driver))
	s.wantNICs(t, s.Replication)
	t.Run("vlan", func(t *testing.T) {
		above := *s
		above.t = t
		above.Replication = vlanOn(func(*site) *topology.Interface { return s.Replication }, 5)(&above, "vlan5", vlanNet)
		await.Must(t, above.Replication.WaitReady(await.Within(t, await.AnswerTime)))
		traffic.ServeNICs(t, above.Replication)
		above.wantNICs(t, s.Replication)
	})
}

// wantNICs shows that answers of the replication address get lost without replypath, and that those and transfers are right
// with it.
func (s *site) wantNICs(t *testing.T, nic *topology.Interface) {
	t.Helper()
	traffic.EachQuestion(t, "without replypath", s.wantLost)
	p, _ := product.StartOn(t, s.Server)
	traffic.EachQuestion(t, "with replypath", s.wantRight)
	for _, f := range traffic.Families {
		t.Run("bulk/"+f.String(), func(t *testing.T) { s.wantBulk(t, f, nic) })
	}
	await.Must(t, nic.ReceiveInLists(5*time.Millisecond))
	for _, f := range traffic.Families {
		t.Run("resets/"+f.String(), func(t *testing.T) { s.wantResets(t, p.In(t), f) })
	}
	p.Expect(0, "detach", "--stop")
}

// wantResets has the client write and reset its connections at once, so that the NIC hands up both in one list: none of them
// stays open.
func (s *site) wantResets(t *testing.T, p *product.Product, f topology.Family) {
	t.Helper()
	const connections = 5
	for range connections {
		conn, err := s.Client.Dial(await.Within(t, await.AnswerTime), "tcp", netip.AddrPortFrom(s.Replication.Address(f), traffic.EchoPort).String())
		await.Must(t, err)
		await.Must1[int](t)(conn.Write([]byte("question")))
		await.Must(t, conn.(*net.TCPConn).SetLinger(0))
		await.Must(t, conn.Close())
	}
	await.Eventually(t, "the connections are over", func() error {
		for _, flow := range p.Flows("--protocol", "tcp", "--peer", s.ClientEth0.Address(f).String()) {
			if flow.Self == s.Replication.Address(f).String() && !flow.Closing {
				return fmt.Errorf("%s", flow)
			}
		}
		return nil
	})
}

const (
	vlanNet  = 5
	bulkSize = 4_000_000
)

// wantBulk has some megabytes cross in either direction, all of what the server sends by replication. The NIC below has to
// segment it.
func (s *site) wantBulk(t *testing.T, f topology.Family, nic *topology.Interface) {
	t.Helper()
	l := traffic.ServeTransfers(t, s.Server, s.Replication.Address(f))
	conn := traffic.DialTransfer(t, s.Client, l)
	defer conn.Close()
	exits, handed := wire.TapAll(t, s.nics()...), wire.Capture(t, nic)
	traffic.TransferBothWays(t, conn, bulkSize)
	segments := untagged(topology.All(topology.TCP, topology.From(s.Replication.Address(f)), topology.Not(topology.FromPort(traffic.EchoPort))))
	exits.Want("the transfers", segments, s.Replication, s.Replication.Peer().MAC)
	if largest := largestPacket(nic, handed.Frames(topology.Going(topology.Sent))); largest <= 2*1500 {
		t.Errorf("no packet of more than %d bytes was left to %s to segment", largest, nic.Name)
	}
}

// nic is a way by a cable between two NICs with a driver.
func nic(driver string) way {
	return func(s *site, name string, network int) *topology.Interface {
		s.t.Helper()
		server, router := s.ends(name, network)
		if driver == "veth" {
			i := s.cable(server, router)
			host.Shell(s.t, s.Server, "ethtool -K "+name+" gro on")
			return i
		}
		devices := devicesOf(s.t, driver)
		server.Device, router.Device = devices[0], devices[1]
		return s.cable(server, router)
	}
}

// devicesOf lists the machine's own NICs with a driver, by their MACs: two that a cable joins follow each other.
func devicesOf(t *testing.T, driver string) (names []string) {
	t.Helper()
	all := await.Must1[[]net.Interface](t)(net.Interfaces())
	slices.SortFunc(all, func(a, b net.Interface) int { return bytes.Compare(a.HardwareAddr, b.HardwareAddr) })
	for _, i := range all {
		if link, err := os.Readlink("/sys/class/net/" + i.Name + "/device/driver"); err == nil && filepath.Base(link) == driver {
			names = append(names, i.Name)
		}
	}
	if len(names) < 2 {
		t.Fatalf("the machine has %d NICs with the driver %s; make test-kernels SUITES=nics makes them", len(names), driver)
	}
	return names
}

// largestPacket returns the length of the largest packet that a device has sent, without
// its Ethernet header where it has one.
func largestPacket(by *topology.Interface, frames []*topology.Frame) (largest int) {
	header := 0
	if by.MAC != nil {
		header = 14
	}
	for _, frame := range frames {
		largest = max(largest, frame.Length-header)
	}
	return largest
}
