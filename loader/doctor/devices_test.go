// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/doctor/finding"
	"replypath/test/await"
	"replypath/test/testhost"
	"replypath/test/topology"
)

// device adds a device that not every kernel can make.
func device(t *testing.T, h *topology.Host, link netlink.Link) {
	t.Helper()
	err := h.Netlink().LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("kernel %s has no %s devices", testhost.KernelRelease(), link.Type())
	}
	await.Must(t, err)
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

// look examines a host.
func look(t *testing.T, h *topology.Host, cfg *config.Config) []Finding {
	t.Helper()
	var found []Finding
	await.Must(t, h.Do(func() (err error) {
		found, err = Examine(Options{PinDir: filepath.Join(t.TempDir(), "pins"), Config: cfg, Root: t.TempDir()})
		return err
	}))
	testhost.WantForm(t, found)
	return found
}

// of wants one finding of a check that has all of the words.
func of(t *testing.T, found []Finding, check string, severity finding.Severity, words ...string) {
	t.Helper()
	count := 0
	for _, f := range found {
		has := f.Check == check && f.Severity == severity
		for _, word := range words {
			has = has && strings.Contains(f.Found, word)
		}
		if has {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d findings %s of %s with %q, not one:\n%s", count, severity, check, words, strings.Join(testhost.Lines(found), "\n"))
	}
}

// addresses gives a host the addresses of the fixture.
func addresses(t *testing.T, h *topology.Host) {
	t.Helper()
	testhost.Run(t, h, "address add 10.3.0.100/24 dev eth0\naddress add 10.4.0.100/24 dev eth1\n", "ip", "-batch", "-")
}

// TestContradiction: before the first start doctor refuses what a start would.
func TestContradiction(t *testing.T) {
	_, h := testhost.NewNetwork(t)
	addresses(t, h)
	cfg, err := config.Parse("replypath.yaml", []byte("interfaces:\n- name: \"eth*\"\n- {name: \"*2\", next_hop: last-hop}\n"))
	await.Must(t, err)
	of(t, look(t, h, cfg), "managed", OK, "eth0, eth1")
	testhost.Run(t, h, "", "ip", "link", "add", "eth2", "type", "veth", "peer", "name", "far")
	err = h.Do(func() error {
		_, err := Examine(Options{PinDir: filepath.Join(t.TempDir(), "pins"), Config: cfg, Root: t.TempDir()})
		return err
	})
	const says = `replypath.yaml:3: interfaces[1].next_hop: "*2" contradicts "eth*" on line 2, as both match interface eth2: `
	if !errors.Is(err, config.ErrInvalid) || !strings.HasPrefix(err.Error(), says) {
		t.Errorf("%v", err)
	}
}

// TestPortsOfVRF: the default route of a VRF stands in its own table.
func TestPortsOfVRF(t *testing.T) {
	_, h := testhost.NewNetwork(t)
	device(t, h, &netlink.Vrf{LinkAttrs: named("blue"), Table: 10})
	testhost.Run(t, h, "link set blue up\nlink set eth0 master blue\nlink set eth1 master blue\n", "ip", "-batch", "-")
	addresses(t, h)
	found := look(t, h, config.Default())
	of(t, found, "managed", OK, "eth0, eth1")
	of(t, found, "default-route", OK, "nothing to route")
	testhost.Run(t, h, "link set eth1 nomaster\naddress replace 10.4.0.100/24 dev eth1\n", "ip", "-batch", "-")
	of(t, look(t, h, config.Default()), "default-route", Error, "ipv4: no default route")
}
