// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"replypath/loader/config"
	"replypath/test/await"
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
	await.Must(t, err)
	cfg.MaxEntries = newConfig().MaxEntries
	return cfg
}

// configured starts with such a configuration.
func configured(t *testing.T, text string) func(*Options) {
	return func(o *Options) { o.Config = parsed(t, text) }
}

// reloadText reloads such a configuration.
func (r *running) reloadText(text string) error {
	return r.reload(func(c *config.Config) { *c = *parsed(r.b.T, text) })
}

func wantRefused(t *testing.T, err error, begins string) {
	t.Helper()
	if !errors.Is(err, config.ErrInvalid) || !strings.HasPrefix(err.Error(), begins) {
		t.Errorf("refused: %v", err)
	}
}

// addTun makes a tun device that stays without a process.
func (b *server) addTun(name string) {
	b.Helper()
	b.ip("tuntap add dev " + name + " mode tun\naddress add 10.9.0.1/24 dev " + name + "\nlink set " + name + " up")
}

// TestContradictionThatAppears: an interface that comes later is served as far as it can be, by the first of globs that
// differ. It is warned of once, and what follows that warning is a refused reload.
func TestContradictionThatAppears(t *testing.T) {
	for _, c := range []struct{ name, text, warning, refused, mended string }{
		{
			"tun0", lastHopOnTunnel,
			"interface tun0 has no ethernet header: next_hop last-hop is served as auto there", noLastHop,
			"interfaces: [{name: eth1}, {name: tun0}]",
		},
		{
			"eth2", globsOfEth2,
			`interface eth2 has another next_hop by its entry "eth*" than by "*2": the former is in force, but the next start or reload is refused`,
			globsContradict, `interfaces: [{name: "eth*"}]`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newServer(t)
			r := b.start(configured(t, c.text))
			if c.name == "eth2" {
				b.ip("link add eth2 type veth peer name far\naddress add 10.9.0.1/24 dev eth2\nlink set eth2 up\nlink set far up")
			} else {
				b.addTun(c.name)
			}
			eventually(t, "a warning", func() bool { return slices.Contains(b.status().Errors, c.warning) })
			if i := b.status().of(c.name); i == nil || !i.Attached || c.name == "eth2" && i.NextHop != "auto" {
				t.Errorf("%s is %+v", c.name, i)
			}
			await.Same(t, "times that it is logged", 1, b.logged(strings.ReplaceAll(c.warning, `"`, `\"`)))
			wantRefused(t, r.reloadText(c.text), c.refused)
			await.Must(t, r.reloadText(c.mended))
			if errs := b.status().Errors; slices.Contains(errs, c.warning) {
				t.Errorf("errors %q", errs)
			}
			r.stop()
			_, err := b.tryStart(configured(t, c.text))
			wantRefused(t, err, c.refused)
		})
	}
}
