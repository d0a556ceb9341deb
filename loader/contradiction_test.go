// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/test/harness"
	"replypath/test/topology"
)

const lastHopOnTunnel = `
interfaces:
- name: eth1
- name: tun0
  next_hop: last-hop
`

// globsOfEth2 differ on eth2.
const globsOfEth2 = `
interfaces:
- name: "eth*"
- name: "*2"
  next_hop: last-hop
`

const (
	noLastHop       = "replypath.yaml:5: interfaces[1].next_hop: interface tun0 has no ethernet header"
	globsContradict = `replypath.yaml:5: interfaces[1].next_hop: "*2" contradicts "eth*" on line 3, as both match interface eth2: `
)

// parsed is a configuration as the daemon reads it.
func parsed(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("replypath.yaml", []byte(text))
	harness.Must(t, err)
	cfg.MaxEntries = newConfig().MaxEntries
	return cfg
}

func checkRefused(t *testing.T, what string, err error, begins string) {
	t.Helper()
	if !errors.Is(err, config.ErrInvalid) || !strings.HasPrefix(err.Error(), begins) {
		t.Errorf("%s: %v", what, err)
	}
}

// addTun makes a tun device that stays without a process.
func (b *bed) addTun() {
	b.Helper()
	b.ip("tuntap add dev tun0 mode tun\naddress add 10.9.0.1/24 dev tun0\nlink set tun0 up\n")
}

// TestStartOfAContradiction: last-hop on a device without an Ethernet header is
// refused before anything is attached or pinned.
func TestStartOfAContradiction(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.addTun()
	before := b.trace()
	_, err := b.tryStart(func(o *Options) { o.Config = parsed(t, lastHopOnTunnel) })
	checkRefused(t, "start", err, noLastHop)
	if after := b.trace(); !slices.Equal(before, after) {
		t.Errorf("a refused start leaves\n%q\nbefore\n%q", after, before)
	}
	if _, err := os.Stat(b.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin directory is there: %v", err)
	}
}

// TestReloadOfAContradiction: the configuration before stays in force, as a whole.
func TestReloadOfAContradiction(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.addTun()
	r := b.start(nil)
	before := b.settings()
	checkRefused(t, "reload", r.reload(func(c *config.Config) {
		*c = *parsed(t, lastHopOnTunnel+"follow: pinned\n")
	}), noLastHop)
	if after := b.settings(); after != before {
		t.Errorf("settings %+v, before %+v", after, before)
	}
	if status := b.status(); !status.of("eth0").Attached || status.of("tun0").NextHop != "auto" {
		t.Errorf("interfaces %+v", status.Interfaces)
	}
	pingB(t, s)
}

// TestContradictionThatAppears: an interface that comes later is served as far as
// it can be. It is warned of, and what follows that warning is a refused reload.
func TestContradictionThatAppears(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(func(o *Options) { o.Config = parsed(t, lastHopOnTunnel) })
	b.addTun()
	const warning = "interface tun0 has no ethernet header: next_hop last-hop is served as auto there"
	eventually(t, "a warning of tun0", func() bool { return slices.Contains(b.status().Errors, warning) })
	if tun := b.status().of("tun0"); tun == nil || !tun.Attached {
		t.Errorf("tun0 is %+v", tun)
	}
	if n := b.log.count(warning); n != 1 {
		t.Errorf("logged %d times", n)
	}
	checkRefused(t, "reload", r.reload(func(c *config.Config) { *c = *parsed(t, lastHopOnTunnel) }), noLastHop)
	harness.Must(t, r.reload(func(c *config.Config) { *c = *parsed(t, "interfaces: [{name: eth1}, {name: tun0}]") }))
	if errs := b.status().Errors; slices.Contains(errs, warning) {
		t.Errorf("errors %q", errs)
	}
}

// TestGlobsOfOneInterface: globs that differ are refused where an interface that is there matches both. Under a
// daemon it may appear: it is warned of, and the first glob holds.
func TestGlobsOfOneInterface(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(func(o *Options) { o.Config = parsed(t, globsOfEth2) })
	b.ip("link add eth2 type veth peer name far\naddress add 10.9.0.1/24 dev eth2\nlink set eth2 up\nlink set far up\n")
	const warning = `interface eth2 has another next_hop by its entry "eth*" than by "*2": the former is in force, but the next start or reload is refused`
	eventually(t, "a warning of eth2", func() bool { return slices.Contains(b.status().Errors, warning) })
	if eth2 := b.status().of("eth2"); eth2 == nil || !eth2.Attached || eth2.NextHop != "auto" {
		t.Errorf("eth2 is %+v", eth2)
	}
	if n := b.log.count(strings.ReplaceAll(warning, `"`, `\"`)); n != 1 {
		t.Errorf("logged %d times", n)
	}
	checkRefused(t, "reload", r.reload(func(c *config.Config) { *c = *parsed(t, globsOfEth2) }), globsContradict)
	pingB(t, s)
	r.stop()
	_, err := b.tryStart(func(o *Options) { o.Config = parsed(t, globsOfEth2) })
	checkRefused(t, "start", err, globsContradict)
}

func TestMostExclusions(t *testing.T) {
	if most := len(bpf.DatapathExclusionSet{}.Rule); most != config.MaxExclusions {
		t.Errorf("the programs look at %d exclusions, a configuration may have %d", most, config.MaxExclusions)
	}
}
