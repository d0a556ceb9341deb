// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// vrfTable is the routing table of the VRF.
const vrfTable = 10

// newVRF builds a site whose server has both interfaces in a VRF, with their
// gateway in its table only. Who serves is up to the test.
func newVRF(t *testing.T) *site {
	t.Helper()
	s := bareSite(t)
	v := made[*topology.Interface](t, "VRF")(s.Server.AddVRF("blue", vrfTable))
	s.Production = ethernet(s, "eth0", productionNet)
	s.Replication = ethernet(s, "eth1", replicationNet)
	ctx := await.Within(t, await.AnswerTime)
	for _, i := range s.nics() {
		await.Must(t, i.Enslave(v))
	}
	await.Must(t, s.WaitReady(ctx))
	for _, f := range traffic.Families {
		s.addDefault(f, s.Production, vrfTable)
		await.Must(t, s.Production.Resolve(ctx, address(f, productionNet, routerNumber).Addr()))
	}
	return s
}

// TestVRF has the server's sockets bound to a VRF that both interfaces belong to. The interfaces are managed, not the
// VRF, and their gateways are those of its table.
func TestVRF(t *testing.T) {
	s := newVRF(t)
	for _, i := range s.nics() {
		for _, f := range traffic.Families {
			traffic.ServeAt(t, s.Server, netip.AddrPortFrom(i.Address(f), traffic.EchoPort), topology.BindToDevice("blue"))
		}
	}
	traffic.EachQuestion(t, "without replypath", s.wantLost)
	p, _ := product.StartOn(t, s.Server)
	status := p.Status()
	wantManaged(t, status, "eth0", "eth1")
	if i := status.Interface("eth0"); i != nil && len(i.Gateways) != len(traffic.Families) {
		t.Errorf("gateways of eth0 are %v, not those of the VRF's table", i.Gateways)
	}
	traffic.EachQuestion(t, "with replypath", s.wantRight)
	wantPlanOfVRF(t, p.Plan(0))
	p.Expect(0, "detach", "--stop")
	traffic.EachQuestion(t, "after detach", s.wantLost)
}

// wantPlanOfVRF wants a plan to know the routes of the VRF, and the rule for others' own.
func wantPlanOfVRF(t *testing.T, made *product.Plan) {
	t.Helper()
	if rule := made.Of("rule", "rule 1000: "); rule.Verdict != "foreign" || product.OrEmpty(rule.Owner) == "" {
		t.Errorf("the rule of VRFs: %+v", rule)
	}
	if len(made.WouldMove) == 0 || len(made.Originated) != 0 {
		t.Errorf("rows %+v, opened %+v", made.WouldMove, made.Originated)
	}
	for _, r := range made.WouldMove {
		if r.FromInterface != "eth0" || r.ToInterface != "eth1" {
			t.Errorf("not by the routes of the VRF: %+v", r)
		}
	}
}

// TestVRFAccept has TCP servers that know nothing of the VRF and serve it all the
// same (net.ipv4.tcp_l3mdev_accept). What they accept is bound to the VRF.
func TestVRFAccept(t *testing.T) {
	s := newVRF(t)
	await.Must(t, s.Server.SetSysctl("net/ipv4/tcp_l3mdev_accept", "1"))
	traffic.ServeAt(t, s.Server, netip.AddrPortFrom(netip.IPv6Unspecified(), traffic.EchoPort))
	p := product.On(t, s.Server)
	for _, f := range traffic.Families {
		t.Run("without replypath/"+f.String(), func(t *testing.T) { s.wantLost(t, f, traffic.TCP) })
	}
	p.Start()
	for _, f := range traffic.Families {
		t.Run("with replypath/"+f.String(), func(t *testing.T) { s.wantRight(t, f, traffic.TCP) })
	}
}
