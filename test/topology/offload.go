// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
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
	var commands []uint32
	if o.NoSegmentation {
		commands = append(commands, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO)
	}
	if o.NoChecksum {
		// Segmentation depends on it and goes as well.
		commands = append(commands, unix.ETHTOOL_STXCSUM)
	}
	if o.NoReceive {
		commands = append(commands, unix.ETHTOOL_SGRO)
	}
	if len(commands) == 0 {
		return nil
	}
	err := i.Host.Do(func() error { return ethtoolSet(i.Name, commands, 0) })
	return i.named(err, "turn offloads off")
}

// ReceiveInLists has the interface, an end of a cable, hand frames up as NICs do: in lists of what came within a pause. GRO
// makes veth take them by NAPI, unless the other end has TSO, and a timer polls that (Documentation/networking/napi.rst).
func (i *Interface) ReceiveInLists(pause time.Duration) error {
	if err := i.Peer().SetOffloads(Offloads{NoSegmentation: true}); err != nil {
		return err
	}
	err := i.Host.Do(func() error { return ethtoolSet(i.Name, []uint32{unix.ETHTOOL_SGRO}, 1) })
	if err != nil {
		return i.named(err, "turn GRO on")
	}
	script := fmt.Sprintf("mount -t sysfs sysfs /sys && cd /sys/class/net/%s && echo %d >gro_flush_timeout && echo 1000000 >napi_defer_hard_irqs",
		i.Name, pause.Nanoseconds())
	output, err := i.Host.Command(context.Background(), "unshare", "--mount", "sh", "-c", script).CombinedOutput()
	return i.named(err, "poll by a timer: %s", output)
}

// ethtoolValue is struct ethtool_value of linux/ethtool.h.
type ethtoolValue struct {
	command uint32
	data    uint32
}

// ethtoolRequest is struct ifreq of linux/if.h with its ifr_data.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// ethtoolSet runs ethtool commands with a value on an interface of the calling thread's namespace.
func ethtoolSet(name string, commands []uint32, data uint32) (err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	for _, command := range commands {
		value := ethtoolValue{command, data}
		request := ethtoolRequest{data: unsafe.Pointer(&value)}
		copy(request.name[:unix.IFNAMSIZ-1], name)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		runtime.KeepAlive(&value)
		if errno != 0 {
			return errno
		}
	}
	return nil
}
