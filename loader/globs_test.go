// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"replypath/loader/config"
	"replypath/test/await"
)

// parsed is a configuration as the daemon reads it.
func parsed(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("replypath.yaml", []byte(text))
	await.Must(t, err)
	cfg.MaxEntries = newConfig().MaxEntries
	return cfg
}

// addTun makes a tun device that stays without a process.
func (b *server) addTun(name string) {
	b.Helper()
	b.ip("tuntap add dev " + name + " mode tun\naddress add 10.9.0.1/24 dev " + name + "\nlink set " + name + " up")
}

// TestUnlikeEntries: of globs that differ the first is in force, and last-hop is served as auto where frames have no MAC address,
// which is warned of. A start and a reload take both.
func TestUnlikeEntries(t *testing.T) {
	b := newServer(t)
	b.addTun("tun0")
	b.ip("link add eth2 type veth peer name far\naddress add 10.8.0.1/24 dev eth2\nlink set eth2 up\nlink set far up")
	const text = `
interfaces:
- name: "eth*"
- name: "*2"
  next_hop: last-hop
- name: tun0
  next_hop: last-hop
`
	r := b.start(func(o *Options) { o.Config = parsed(t, text) })
	await.Must(t, r.reload(func(c *config.Config) { *c = *parsed(t, text) }))
	for name, hop := range map[string]string{"eth2": "auto", "tun0": "last-hop"} {
		if i := b.status().of(name); i == nil || !i.Attached || i.NextHop != hop {
			t.Errorf("%s is %+v", name, i)
		}
	}
	await.Same(t, "errors", []string{"interface tun0 has no ethernet header: next_hop last-hop is served as auto there"}, b.status().Errors)
}
