// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"fmt"
	"time"
)

// Offloads says which of the kernel's offloads an interface goes without. The zero value leaves all of them as veth has
// them: on.
type Offloads struct {
	// NoSegmentation turns TSO and GSO off, so that every frame that leaves the interface fits its MTU. Otherwise veth
	// hands frames of up to 64 KiB to the other end, past any MTU on the way.
	NoSegmentation bool
	// NoChecksum has checksums filled in before the frame leaves.
	NoChecksum bool
	// NoReceive turns GRO off.
	NoReceive bool
}

// WireExact turns off what makes a captured frame stand for several on the wire, so that frames and counters can be
// compared exactly.
var WireExact = Offloads{NoSegmentation: true, NoReceive: true}

// SetOffloads turns off what o names and leaves the rest alone.
func (i *Interface) SetOffloads(o Offloads) error {
	var features []string
	if o.NoSegmentation {
		features = append(features, "tso", "off", "gso", "off")
	}
	if o.NoChecksum {
		features = append(features, "tx", "off") // segmentation depends on it and goes as well
	}
	if o.NoReceive {
		features = append(features, "gro", "off")
	}
	if len(features) == 0 {
		return nil
	}
	return i.ethtool(features...)
}

// ethtool sets features of the interface by ethtool(8).
func (i *Interface) ethtool(features ...string) error {
	output, err := i.Host.Command(context.Background(), "ethtool", append([]string{"-K", i.Name}, features...)...).CombinedOutput()
	return i.named(err, "set %q: %s", features, output)
}

// ReceiveInLists has the interface, an end of a cable, hand frames up as NICs do: in lists of what came within a pause. GRO
// makes veth take them by NAPI, unless the other end has TSO, and a timer polls that (Documentation/networking/napi.rst).
func (i *Interface) ReceiveInLists(pause time.Duration) error {
	if err := i.Peer().SetOffloads(Offloads{NoSegmentation: true}); err != nil {
		return err
	}
	if err := i.ethtool("gro", "on"); err != nil {
		return err
	}
	script := fmt.Sprintf("mount -t sysfs sysfs /sys && cd /sys/class/net/%s && echo %d >gro_flush_timeout && echo 1000000 >napi_defer_hard_irqs",
		i.Name, pause.Nanoseconds())
	output, err := i.Host.Command(context.Background(), "unshare", "--mount", "sh", "-c", script).CombinedOutput()
	return i.named(err, "poll by a timer: %s", output)
}
