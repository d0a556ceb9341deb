// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// wantSaid wants one line of a daemon's log with the words, and none that says more than is true.
func wantSaid(t *testing.T, d *harness.Daemon, words string, corrected bool) {
	t.Helper()
	if lines := d.Log.Lines(words); len(lines) != 1 {
		t.Errorf("%d lines say %q:\n%s", len(lines), words, d.Log)
	}
	if lines := d.Log.Lines("still corrected"); !corrected && len(lines) > 0 {
		t.Errorf("it says that replies are still corrected: %q", lines)
	}
}

// TestSaysWhatStays: what a daemon says when it ends is what the frames show afterwards.
func TestSaysWhatStays(t *testing.T) {
	n := newServer(t)
	c := conversation(t, n, harness.TCP, topology.IPv4)
	for name, test := range map[string]struct {
		args      []string
		mode      string // by hand, once it runs
		says      string
		corrected bool
	}{
		"enforce": {nil, "", "replies are still corrected on eth0, eth1; `replypath detach%s` ends that", true},
		"observe": {
			[]string{"--observe"}, "",
			"replies are still only observed on eth0, eth1, they leave as routed; `replypath detach%s` ends that", false,
		},
		"observe by hand": {
			nil, "observe",
			"replies are still only observed on eth0, eth1, they leave as routed; `replypath detach%s` ends that", false,
		},
		"nothing attached": {
			[]string{"--interface", "eht1"}, "",
			"nothing is attached, replies leave as routed; `replypath detach%s` removes the pins", false,
		},
		"one observed": {
			[]string{"--config", harness.WriteConfig(t, "interfaces: [{name: eth0, mode: observe}, {name: eth1}]\n")}, "",
			"replies are still corrected on eth1, and only observed on eth0; `replypath detach%s` ends that", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := harness.On(t, n.Server.Host)
			d := p.Start(test.args...)
			if test.mode != "" {
				p.Expect(0, "mode", test.mode)
			}
			d.Stop(unix.SIGTERM)
			wantSaid(t, d, fmt.Sprintf(test.says, " --pin-dir "+p.PinDir), test.corrected)
			harness.WantBy(t, n.Server, c, test.corrected)
		})
	}
}

// TestSaysWhatGoes: a daemon that detach ends does not say that replies stay corrected.
func TestSaysWhatGoes(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	p.Expect(0, "detach", "--stop")
	if code := d.WaitEnd(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	wantSaid(t, d, "what is attached goes; `replypath detach --stop --pin-dir "+p.PinDir+"` takes it away", false)
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), false)
}

// TestSaysReady: the line of a start names mode, interfaces, mechanism, and what was changed on the host.
func TestSaysReady(t *testing.T) {
	n := newServer(t)
	harness.Must(t, n.Server.SetSysctl("net/ipv4/conf/eth1/rp_filter", "1"))
	p := harness.On(t, n.Server.Host)
	d := start(p, "clsact")
	for _, words := range []string{
		"mode=enforce", `interfaces="eth0, eth1"`, "mechanism=clsact", "sysctl net.ipv4.conf.eth1.rp_filter: 1 -> 2",
		"qdisc clsact on eth0: none -> clsact", "device replypath0: none ->",
	} {
		if len(d.Log.Lines("msg=ready", words)) != 1 {
			t.Errorf("no line ready with %q:\n%s", words, d.Log)
		}
	}
}

// TestMissingName: a configured name that no interface has shows in metrics, health, status and log, until
// an interface gets it.
func TestMissingName(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start("--interface", "eth0", "--interface", "eht1", "--interface", "wlan*")
	const warning = "interface eht1 is not there yet: it is managed once it appears"
	d.WaitLog(1, "level=WARN", warning)
	if !slices.Contains(p.Status().Errors, warning) {
		t.Errorf("status has the errors %q", p.Status().Errors)
	}
	series := func() (zeros, ones float64) {
		for _, m := range p.Metrics()["replypath_interface_attached"].GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "interface" && l.GetValue() == "eht1" {
					ones += m.GetGauge().GetValue()
					zeros += 1 - m.GetGauge().GetValue()
				}
			}
		}
		return zeros, ones
	}
	if zeros, ones := series(); zeros != 2 || ones != 0 {
		t.Errorf("%v series of eht1 are 0, %v are 1", zeros, ones)
	}
	if _, err := p.Get("/healthz"); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "eht1") {
		t.Errorf("/healthz: %v", err)
	}
	harness.Shell(t, n.Server.Host, "ip link set eth1 down && ip link set eth1 name eht1 && ip link set eht1 up")
	harness.Eventually(t, "eht1 is attached", func() error {
		if zeros, ones := series(); zeros != 0 || ones != 2 {
			return fmt.Errorf("%v series of eht1 are 0, %v are 1", zeros, ones)
		}
		_, err := p.Get("/healthz")
		return err
	})
	if slices.Contains(p.Status().Errors, warning) {
		t.Error("the warning stands")
	}
}

// TestCheckListsTheHost: what would be managed, without any rights.
func TestCheckListsTheHost(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	file := harness.WriteConfig(t, "interfaces: [{name: eth0, mode: observe}, {name: eht1}]\n")
	result := p.Expect(0, "check", "--config", file)
	for _, row := range []string{
		`(?m)^eth0 +yes +observe +-$`, `(?m)^eht1 +no +- +no such interface`, `(?m)^eth1 +no +- +not named by the configuration$`,
		`(?m)^lo +no +- +loopback$`,
	} {
		if !regexp.MustCompile(row).MatchString(result.Stdout) {
			t.Errorf("no row %s: %s", row, result)
		}
	}
}
