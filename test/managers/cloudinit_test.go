// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"replypath/loader/pins"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// cloudInitUnit is the stage before the network.
const cloudInitUnit = "/usr/lib/systemd/system/cloud-init-local.service"

// cloudInitConfig asks EC2 alone, and has the renderer of Debian's cloud images, which have no ifupdown.
const cloudInitConfig = `datasource_list: [Ec2]
datasource: {Ec2: {metadata_urls: ["http://169.254.169.254"], max_wait: 10}}
preserve_hostname: true
system_info: {network: {renderers: [netplan]}}
`

// onEC2 is a machine by its hypervisor, which says so where this kernel may have no place for it.
const onEC2 = `[Service]
TemporaryFileSystem=/sys
BindPaths=/sys/class /sys/devices /sys/kernel
BindReadOnlyPaths=/etc/ec2-uuid:/sys/hypervisor/uuid
`

// fitMachine does what generators do on a whole machine. It has networkd find a veth, which has no permanent MAC, by
// what netplan writes for NICs.
const fitMachine = `[Service]
ExecStartPre=+netplan generate
ExecStartPre=+sh -c 'sed -i s/^PermanentMACAddress/MACAddress/ /run/systemd/network/*.network'
`

// newCloudInit prepares a machine that cloud-init configures at boot.
func newCloudInit(t *testing.T, n *topology.TwoNIC) *host.Machine {
	t.Helper()
	serveMetadata(t, n, newEC2Metadata(n))
	serveLeases(t, n.Server.Eth0)
	serveLeases(t, n.Server.Eth1)
	m := host.NewMachine(t, n.Server.Host)
	m.Write(cloudInitUnit, string(await.Must1[[]byte](t)(os.ReadFile(cloudInitUnit))))
	m.Write("/etc/cloud/cloud.cfg.d/99-test.cfg", cloudInitConfig)
	m.Write("/etc/systemd/system/cloud-init-local.service.d/test.conf", onEC2)
	m.Write("/etc/ec2-uuid", "ec2e1916-9099-7caf-fd21-012345abcdef\n")
	m.Write("/etc/resolv.conf", "# no name server, which it would wait for\n")
	m.Write("/etc/systemd/system/systemd-networkd.service.d/test.conf", fitMachine)
	m.Enable("cloud-init-local.service", cloudInitUnit)
	m.Enable("systemd-networkd.service", "/usr/lib/systemd/system/systemd-networkd.service")
	return m
}

// bootCloudInit boots it, and returns when both interfaces have all that cloud-init and the cloud tell networkd.
func bootCloudInit(t *testing.T, n *topology.TwoNIC, m *host.Machine) {
	t.Helper()
	host.Shell(t, n.Server.Host, "for i in eth0 eth1; do ip link set $i down; ip address flush dev $i; done")
	m.Boot()
	m.WaitBooted()
	for _, i := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
		for _, a := range i.Addresses {
			product.AwaitAddress(t, i, a.Addr(), true)
		}
	}
	product.AwaitAddress(t, n.Server.Eth1, secondary.Addr(), true)
	await.Eventually(t, "all default routes are there", func() error {
		routes := host.Shell(t, n.Server.Host, "for f in -4 -6; do ip $f route show default; done")
		for _, want := range []string{
			"dev eth0 proto dhcp src 10.1.0.100 metric 100", "dev eth1 proto dhcp src 10.2.0.100 metric 200",
			"dev eth0 proto ra metric 100", "dev eth1 proto ra metric 200",
		} {
			if !strings.Contains(routes, want) {
				return errors.New("no " + want + " in\n" + routes)
			}
		}
		return nil
	})
	waitConfigured(t, n)
}

// TestCloudInit boots with cloud-init, which makes no rules: replies are lost. With replypath they are right after the
// next boot. There cloud-init is done before replypath begins. Where interfaces are named, it would ask by replypath0
// otherwise, the only one that is up.
func TestCloudInit(t *testing.T) {
	n, _ := newServer(t)
	m := newCloudInit(t, n)
	bootCloudInit(t, n, m)
	traffic.Serve(t, n.Server.Host, secondary.Addr())
	eachQuestion(t, n, "cloud-init alone", wire.WantLost)
	m.PowerOff()
	m.Install()
	bootCloudInit(t, n, m)
	p := product.On(t, n.Server.Host).WithPinDir(pins.DefaultDir)
	waitManaged(t, p)
	awaitOwn(t, n, p)
	eachQuestion(t, n, "with replypath", wire.WantByEth1)
	for _, kind := range traffic.Kinds {
		wire.WantByEth1(t, n.Server, traffic.NewConversation(t, kind, n.ClientEth0, secondary.Addr()))
	}
	done := microseconds(t, m, "cloud-init-local.service", "ExecMainExitTimestampMonotonic")
	if begins := microseconds(t, m, "replypath.service", "ExecMainStartTimestampMonotonic"); begins < done {
		t.Errorf("replypath begins at %d us, cloud-init is done at %d us", begins, done)
	}
	wantNothingFound(t, p)
}

// wantNothingFound wants plan and doctor to take nothing that an agent makes for a rule or for a problem.
func wantNothingFound(t *testing.T, p *product.Product) {
	t.Helper()
	if made := p.Plan(0); len(made.Rules) > 0 {
		t.Errorf("plan: %+v", made.Rules)
	}
	for _, f := range p.Examine() {
		await.Same(t, fmt.Sprintf("severity of %+v", f), "ok", f.Severity)
	}
}
