// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"net/netip"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
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
	ctx := harness.Within(t, harness.AnswerTime)
	for _, i := range s.nics() {
		harness.Must(t, i.Enslave(v))
	}
	harness.Must(t, s.WaitReady(ctx))
	for _, f := range harness.Families {
		s.addDefault(f, s.Production, vrfTable)
		harness.Must(t, s.Production.Resolve(ctx, address(f, productionNet, routerNumber).Addr()))
	}
	return s
}

// TestVRF has the server's sockets bound to a VRF that both interfaces belong to.
// The interfaces are managed, not the VRF, and their gateways are those of its
// table.
func TestVRF(t *testing.T) {
	s := newVRF(t)
	for _, i := range s.nics() {
		for _, f := range harness.Families {
			harness.ServeAt(t, s.Server, netip.AddrPortFrom(i.Address(f), harness.EchoPort), topology.BindToDevice("blue"))
		}
	}
	harness.EachQuestion(t, "without replypath", s.wantLost)
	p := harness.On(t, s.Server)
	p.Start()
	status := p.Status()
	wantManaged(t, status, "eth0", "eth1")
	if i := status.Interface("eth0"); i != nil && len(i.Gateways) != len(harness.Families) {
		t.Errorf("gateways of eth0 are %v, not those of the VRF's table", i.Gateways)
	}
	harness.EachQuestion(t, "with replypath", s.wantRight)
	wantPlanOfVRF(t, p.Plan(0))
	p.Expect(0, "detach", "--stop")
	harness.EachQuestion(t, "after detach", s.wantLost)
}

// wantPlanOfVRF wants a plan to know the routes of the VRF, and the rule for others' own.
func wantPlanOfVRF(t *testing.T, made *harness.Plan) {
	t.Helper()
	if rule := made.Of("rule", "rule 1000: "); rule.Verdict != "foreign" || harness.OrEmpty(rule.Owner) == "" {
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

// TestVRFWildcard has a UDP server in a VRF that is bound to no address, and so leaves it to the VRF's
// route from which it answers.
func TestVRFWildcard(t *testing.T) {
	s := newVRF(t)
	harness.ServeAt(t, s.Server, netip.AddrPortFrom(netip.IPv6Unspecified(), harness.EchoPort), topology.BindToDevice("blue"))
	p := harness.On(t, s.Server)
	for _, f := range harness.Families {
		t.Run("without replypath/"+f.String(), func(t *testing.T) {
			c := s.ask(t, harness.UDP, s.Replication.Address(f))
			s.wantAnswersLost(t, c, c.Behind(s.Production.Address(f)).Answers())
		})
	}
	p.Start("--config", harness.WriteConfig(t, "repair_udp_source: true\n"))
	for _, f := range harness.Families {
		t.Run("with replypath/"+f.String(), func(t *testing.T) { s.wantRight(t, f, harness.UDP) })
	}
}

// TestVRFAccept has TCP servers that know nothing of the VRF and serve it all the
// same (net.ipv4.tcp_l3mdev_accept). What they accept is bound to the VRF.
func TestVRFAccept(t *testing.T) {
	s := newVRF(t)
	harness.Must(t, s.Server.SetSysctl("net/ipv4/tcp_l3mdev_accept", "1"))
	harness.ServeAt(t, s.Server, netip.AddrPortFrom(netip.IPv6Unspecified(), harness.EchoPort))
	p := harness.On(t, s.Server)
	for _, f := range harness.Families {
		t.Run("without replypath/"+f.String(), func(t *testing.T) { s.wantLost(t, f, harness.TCP) })
	}
	p.Start()
	for _, f := range harness.Families {
		t.Run("with replypath/"+f.String(), func(t *testing.T) { s.wantRight(t, f, harness.TCP) })
	}
}
