// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// wantSaid wants one line of a daemon's log with the words, and none that says more than is true.
func wantSaid(t *testing.T, d *product.Daemon, words string, corrected bool) {
	t.Helper()
	if lines := d.Log.Lines(words); len(lines) != 1 {
		t.Errorf("%d lines say %q:\n%s", len(lines), words, d.Log)
	}
	if lines := d.Log.Lines("still corrected"); !corrected && len(lines) > 0 {
		t.Errorf("it says that replies are still corrected: %q", lines)
	}
}

// TestSaysWhatStays: what a daemon says when a service manager or a terminal ends it is what the frames show afterwards.
func TestSaysWhatStays(t *testing.T) {
	n, p := server.NewExact(t)
	c := conversation(t, n, traffic.TCP, topology.IPv4)
	const observed = "replies are still only observed on eth0, eth1, they leave as routed; `replypath detach%s` ends that"
	for name, test := range map[string]struct {
		args      []string
		mode      string // by hand, once it runs
		signal    unix.Signal
		says      string
		corrected bool
	}{
		"enforce":         {nil, "enforce", unix.SIGTERM, "replies are still corrected on eth0, eth1; `replypath detach%s` ends that", true},
		"observe":         {[]string{"--observe"}, "", unix.SIGINT, observed, false},
		"observe by hand": {nil, "observe", unix.SIGTERM, observed, false},
		"nothing attached": {
			[]string{"--interface", "eht1"}, "", unix.SIGTERM,
			"nothing is attached, replies leave as routed; `replypath detach%s` removes the pins", false,
		},
		"one observed": {
			[]string{"--config", product.WriteConfig(t, "interfaces: [{name: eth0, mode: observe}, {name: eth1}]\n")}, "", unix.SIGINT,
			"replies are still corrected on eth1, and only observed on eth0; `replypath detach%s` ends that", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := p.In(t)
			d := p.Start(test.args...)
			if test.mode != "" {
				p.Expect(0, "mode", test.mode)
			}
			d.Stop(test.signal)
			wantSaid(t, d, fmt.Sprintf(test.says, " --pin-dir "+p.PinDir), test.corrected)
			wire.WantBy(t, n.Server, c, test.corrected)
			p.Detach()
		})
	}
}

// TestCheckNamesWhatIsThere: check warns of a name that no interface has, with the nearest one, and of routes by which replies
// leave uncaught.
func TestCheckNamesWhatIsThere(t *testing.T) {
	n, p := server.NewExact(t)
	wantWarnings := func(config string, want ...string) {
		t.Helper()
		shown := struct{ Warnings []string }{}
		result := p.Expect(0, "check", "-o", "json", "--config", product.WriteConfig(t, config))
		await.Must(t, json.Unmarshal([]byte(result.Stdout), &shown))
		await.Same(t, config, strings.Join(want, "\n"), strings.Join(shown.Warnings, "\n"))
	}
	wantWarnings("interfaces: [{name: eth1}]\n")
	wantWarnings("interfaces: [{name: eth0}, {name: eht1}]\n",
		"interface eht1 is not there yet: it is managed once it appears; eth1 is there")
	wantWarnings("interfaces: [{name: eht9}]\n",
		"interface eht9 is not there yet: it is managed once it appears", "no interface is managed: no reply is caught")
	for _, everywhere := range []string{"0.0.0.0/0", "::/0"} {
		host.IPBatch(t, n.Server.Host, "link add br7 type bridge\nlink add port7 type veth peer name far7\n"+
			"link set port7 master br7 up\nroute add "+everywhere+" dev port7 metric 7")
		wantWarnings("interfaces: [{name: eth0}]\n",
			"replies that leave by port7 are not caught: a port of br7, which counts in its place")
		host.IPBatch(t, n.Server.Host, "link del port7\nlink del br7")
	}
}

// wantAnswer wants the first line of status to be like this at last, and every line of its table to fit.
func wantAnswer(t *testing.T, p *product.Product, pattern string) {
	t.Helper()
	await.Eventually(t, "the answer "+pattern, func() error {
		table := p.Run("status").Stdout // exit code 3 where the answer is failed
		first, _, _ := strings.Cut(table, "\n")
		if utf8.RuneCountInString(first) > 120 || !regexp.MustCompile(`^`+pattern+`$`).MatchString(first) {
			return fmt.Errorf("%s", table)
		}
		return nil
	})
}

// TestAnswerOfStatus: the first line says what is done, what came of it, and what is wrong. Its counts are those of the
// metrics.
func TestAnswerOfStatus(t *testing.T) {
	n, p := server.NewExact(t)
	d := p.Start("--observe")
	wantAnswer(t, p, `ok: no requests in the last 10 minutes; observing on eth0, eth1; no replies asymmetric, since \d\d:\d\d`)
	traffic.Ask(t, conversation(t, n, traffic.UDP, topology.IPv4))
	wantAnswer(t, p, `degraded: replies of eth1 leave by eth0; observing on .*; 1 .*asymmetric.*`)
	p.Expect(0, "mode", "enforce")
	for range 3 {
		traffic.Ask(t, conversation(t, n, traffic.UDP, topology.IPv4))
	}
	wantAnswer(t, p, `ok: 3 of 4 replies seen leaving rightly in the last 10 minutes; enforcing on eth0, eth1; 3 replies corrected, none lost`)
	await.Same(t, "what the metrics have", 3, p.Metrics().Sum("replypath_corrected_packets_total"))
	await.Must(t, n.Server.Eth1.SetDown())
	wantAnswer(t, p, `failed: eth1 is down.*; enforcing on .*`)
	await.Must(t, n.Server.Eth1.SetUp())
	d.Stop(unix.SIGTERM)
	wantAnswer(t, p, `degraded: no daemon runs.*; enforcing on .*; 3 .*corrected.*`)
}

// TestFlowsOnOneScreen: the table fits 80 columns with the kernel's choice and the state, in the order that is asked for.
func TestFlowsOnOneScreen(t *testing.T) {
	t.Setenv("COLUMNS", "80")
	n, p := server.NewExact(t)
	p.Start()
	small, large := conversation(t, n, traffic.TCP, topology.IPv4), conversation(t, n, traffic.TCP, topology.IPv4)
	traffic.Ask(t, small)
	await.Must(t, large.AskFor(await.Within(t, await.AnswerTime), 100_000))
	p.Age(10 * time.Second)
	fresh := conversation(t, n, traffic.UDP, topology.IPv4)
	traffic.Ask(t, fresh)
	wantRows := func(arguments string, rows ...string) {
		t.Helper()
		await.Eventually(t, "flows "+arguments, func() error {
			table := p.Expect(0, append([]string{"flows"}, strings.Fields(arguments)...)...).Stdout
			lines := strings.Split(strings.TrimSpace(table), "\n")
			if len(lines) != 1+len(rows) {
				return fmt.Errorf("%d lines:\n%s", len(lines), table)
			}
			for i, line := range lines {
				if len(line) > 80 || i > 0 && !regexp.MustCompile(rows[i-1]).MatchString(line) {
					return fmt.Errorf("line %d, %d columns:\n%s", i, len(line), table)
				}
			}
			return nil
		})
	}
	row := func(c *traffic.Conversation, more string) string {
		return fmt.Sprintf(`^%s +%s +%s +eth1 +eth0 +%s`, c.Protocol(), c.Peer, c.Self, more)
	}
	wantRows("--sort bytes --protocol tcp", row(large, `.*100000$`), row(small, `.*\d+$`))
	wantRows("--sort bytes --limit 1", row(large, `.*100000$`))
	wantRows("--sort corrected --limit 1", row(large, `.*\d+$`))
	wantRows("--sort age --limit 1", row(fresh, `.*1$`))
	await.Must(t, small.Close())
	wantRows("--sort corrected --protocol tcp", row(large, `established .*\d+$`), row(small, `closing .*\d+$`))
	await.Says(t, "sorted events", p.Expect(2, "flows", "--sort", "age", "--follow").Stderr, "--follow")
	for _, flow := range p.Flows("--protocol", "udp") {
		await.Same(t, "packets corrected of "+flow.String(), 1, flow.CorrectedPackets)
	}
}
