// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
)

// machine is a mount namespace for a host, with its own /run and the /sys of its network namespace: programs of which
// there is one on a machine take it for theirs. Nothing that a test writes there is ever seen outside.
type machine struct {
	t    *testing.T
	host *topology.Host
	// enter are the arguments of nsenter.
	enter []string
}

// furnish prepares the mount namespace. Nobody runs udev, but its database says of every interface that it is done with
// it. What an administrator has configured on the real machine is hidden.
const furnish = `
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/network /run/udev/data /run/NetworkManager /run/dbus /run/lock /run/network
for device in /sys/class/net/*; do echo I:1 >/run/udev/data/n$(cat $device/ifindex); done
for dir in /etc/systemd/network /etc/systemd/networkd.conf.d /etc/network /etc/NetworkManager /var/lib/NetworkManager; do
	if [ -d $dir ]; then mount -t tmpfs -o mode=755 tmpfs $dir; fi
done
mkdir -p /etc/network/if-pre-up.d /etc/network/if-up.d /etc/network/if-down.d /etc/network/if-post-down.d
`

// newMachine makes the mount namespace for the duration of the test.
func newMachine(t *testing.T, host *topology.Host) *machine {
	t.Helper()
	c := host.Command(context.Background(), "unshare", "--mount", "--propagation", "private", "sh", "-ec", furnish+"echo furnished; exec sleep infinity")
	holder := product.StartProgram(t, c, unix.SIGKILL)
	holder.WaitLog(1, "furnished")
	return &machine{t: t, host: host, enter: []string{"--target=" + strconv.Itoa(holder.PID()), "--mount"}}
}

// command returns a program to be run on the machine.
func (m *machine) command(args ...string) *topology.Cmd {
	return m.host.Command(context.Background(), "nsenter", slices.Concat(m.enter, []string{"--"}, args)...)
}

// start starts a program that runs until it is told to end.
func (m *machine) start(args ...string) *product.Program {
	m.t.Helper()
	return product.StartProgram(m.t, m.command(args...), syscall.SIGTERM)
}

// run runs a command of the machine and wants success.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	output, err := m.command(args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// write writes a file of the machine.
func (m *machine) write(path, text string) {
	m.t.Helper()
	c := m.command("tee", path)
	c.Stdin = strings.NewReader(text)
	if output, err := c.CombinedOutput(); err != nil {
		m.t.Fatalf("write %s: %v\n%s", path, err, output)
	}
}

// routes are those of a protocol.
func (m *machine) routes(protocol string) string {
	m.t.Helper()
	return testhost.Shell(m.t, m.host, fmt.Sprintf("ip -4 route show proto %s; ip -6 route show proto %[1]s", protocol))
}

// startBus starts the system bus, by which programs are told what to do.
func (m *machine) startBus() {
	m.t.Helper()
	const socket = "/run/dbus/system_bus_socket"
	m.start("dbus-daemon", "--system", "--nofork", "--nopidfile", "--nosyslog", "--address=unix:path="+socket)
	await.Eventually(m.t, "the system bus is there", func() error {
		return m.command("test", "-S", socket).Run()
	})
}
