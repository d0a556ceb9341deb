// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/topology"
)

// ownDevice is the product's.
const ownDevice = "replypath0"

// addNeighbours lists the neighbour entries that somebody has set, or that are on the product's device. The kernel
// makes and drops all others as it needs them (reachable, stale, delayed, incomplete, failed; noarp for multicast), so
// that they differ from moment to moment on a host that nobody touches.
//
// One that is being checked is the kernel's or held by somebody who tells it to check again and again. The kernel ends
// its check within seconds, so that the snapshot waits: what remains is held.
func (s Snapshot) addNeighbours(t testing.TB, host *topology.Host) {
	t.Helper()
	await.Eventually(t, "the kernel is done with its neighbours", func() error {
		kept, checked, err := neighbours(host)
		s["neighbours that somebody has set"] = strings.Join(kept, "\n")
		if err == nil && len(checked) > 0 {
			err = fmt.Errorf("somebody may hold %q", checked)
		}
		return err
	})
}

func neighbours(host *topology.Host) (kept, checked []string, err error) {
	entries, err := host.Netlink().NeighList(0, unix.AF_UNSPEC)
	if err != nil {
		return nil, nil, err
	}
	for _, entry := range entries {
		device, err := deviceName(host, entry.LinkIndex)
		if err != nil {
			return nil, nil, err
		}
		text := fmt.Sprintf("%s %s %s state %#x flags %#x %#x",
			device, entry.IP, entry.HardwareAddr, entry.State, entry.Flags, entry.FlagsExt)
		switch {
		case entry.State == unix.NUD_PROBE:
			checked = append(checked, text)
		case isSet(entry) || device == ownDevice:
			kept = append(kept, text)
		}
	}
	slices.Sort(kept)
	return kept, checked, nil
}

// isSet tells whether an entry is not the kernel's own, which gives only one flag: to those who say of themselves that
// they are routers (RFC 4861).
func isSet(entry netlink.Neigh) bool {
	return entry.State&unix.NUD_PERMANENT != 0 || entry.Flags&^unix.NTF_ROUTER != 0 || entry.FlagsExt != 0
}

func deviceName(host *topology.Host, index int) (string, error) {
	device, err := host.Netlink().LinkByIndex(index)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Sprint("deleted device ", index), nil
	}
	if err != nil {
		return "", err
	}
	return device.Attrs().Name, nil
}
