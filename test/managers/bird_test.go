// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"errors"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/wire"
)

// birdConf has BIRD export a default route of each family, by an interface.
const birdConf = `router id 10.1.0.100;
protocol device {}
protocol kernel { metric 50; ipv4 { export all; }; }
protocol kernel { metric 50; ipv6 { export all; }; }
protocol static { ipv4; route 0.0.0.0/0 via 10.N.0.1; }
protocol static { ipv6; route ::/0 via 2001:db8:N::1; }
`

// TestBIRD has BIRD export the default routes, which lead by eth1 and by eth0 in turn: replies leave by the interface
// that was asked all the time.
func TestBIRD(t *testing.T) {
	n, _ := newServer(t)
	m := newMachine(t, n.Server.Host)
	const conf, socket = "/run/bird.conf", "/run/bird.ctl"
	exports := func(subnet string) {
		t.Helper()
		await.Eventually(t, "BIRD has exported its routes", func() error {
			for _, f := range []string{"-4", "-6"} {
				routes := host.Shell(t, n.Server.Host, "ip "+f+" route show default proto bird")
				if !strings.Contains(routes, "."+subnet+".0.1 ") && !strings.Contains(routes, ":"+subnet+"::1 ") {
					return errors.New(routes)
				}
			}
			return nil
		})
	}
	m.write(conf, strings.ReplaceAll(birdConf, "N", "1"))
	m.start("bird", "-f", "-c", conf, "-s", socket)
	exports("1")
	host.Shell(t, n.Server.Host, "ip route del default proto boot; ip -6 route del default proto boot")
	eachQuestion(t, n, "by BIRD's route alone", wire.WantLost)
	changeTo := func(subnet string) func() {
		return func() {
			t.Helper()
			m.write(conf, strings.ReplaceAll(birdConf, "N", subnet))
			m.run("birdc", "-s", socket, "configure")
			exports(subnet)
		}
	}
	wantUnchanged(t, n, changeTo("2"), changeTo("1"))
}
