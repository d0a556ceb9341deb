// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
)

// Machine is a host that systemd boots, as the first process of namespaces of its own. Its root file system is that of
// the real machine with all changes kept apart (overlayfs): they last until the end of the test, reboots included. It
// has few units: those of a whole machine would set up, and clean up, the real one.
type Machine struct {
	t     testing.TB
	host  *topology.Host
	disk  string
	first *product.Program // nil while it is switched off
}

// packagedUnit is what is installed.
const packagedUnit = "../../packaging/replypath.service"

// unitDir is where packages have their units.
const unitDir = "/usr/lib/systemd/system"

// keptUnits are all that a machine has of the real one's.
var keptUnits = []string{"systemd-networkd.service", "network.target", "network-pre.target"}

// targets replace those that would start all that a whole machine has.
var targets = map[string]string{
	"sysinit.target":    "",
	"basic.target":      "Requires=sysinit.target\nAfter=sysinit.target\n",
	"shutdown.target":   "",
	"multi-user.target": "Requires=basic.target\nAfter=basic.target\n",
}

// NewMachine prepares a machine in the host's network. It is switched off.
func NewMachine(t testing.TB, host *topology.Host) *Machine {
	t.Helper()
	m := &Machine{t: t, host: host, disk: t.TempDir()}
	// Where the upper layer is may not be an overlay itself, as in a container.
	await.Must(t, unix.Mount("machine", m.disk, "tmpfs", 0, "mode=755"))
	t.Cleanup(func() {
		m.forgetPins()
		await.Must(t, unix.Unmount(m.disk, unix.MNT_DETACH))
	})
	for _, dir := range []string{"upper", "work", "root", "shared"} {
		await.Must(t, os.Mkdir(filepath.Join(m.disk, dir), 0o755))
	}
	for _, dir := range []string{unitDir, "/etc/systemd", "/etc/network", "/usr/local"} {
		m.hide(dir)
	}
	if _, err := os.Stat(product.ConfigDir); err == nil {
		m.hide(product.ConfigDir)
	}
	m.remove("/usr/sbin/policy-rc.d") // which in containers forbids packages to start services
	for _, unit := range keptUnits {
		m.Write(unitDir+"/"+unit, string(await.Must1[[]byte](t)(os.ReadFile(filepath.Join(unitDir, unit)))))
	}
	for target, text := range targets {
		m.Write(unitDir+"/"+target, "[Unit]\nDefaultDependencies=no\n"+text)
	}
	m.Write("/etc/systemd/system/service.d/log.conf",
		"[Service]\nStandardOutput=append:/run/test/log\nStandardError=append:/run/test/log\n")
	await.Must(t, os.WriteFile(m.Shared("log"), nil, 0o644))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the services:\n%s", m.Log())
		}
	})
	return m
}

// hide empties a directory of the machine, also where the real one has none.
func (m *Machine) hide(dir string) {
	m.t.Helper()
	upper := filepath.Join(m.disk, "upper", dir)
	await.Must(m.t, os.MkdirAll(upper, 0o755))
	await.Must(m.t, unix.Setxattr(upper, "trusted.overlay.opaque", []byte("y"), 0))
}

// remove has a file of the real machine not be on this one.
func (m *Machine) remove(path string) {
	m.t.Helper()
	whiteout := filepath.Join(m.disk, "upper", path)
	await.Must(m.t, os.MkdirAll(filepath.Dir(whiteout), 0o755))
	await.Must(m.t, unix.Mknod(whiteout, unix.S_IFCHR, 0))
}

// Shared returns where a file in the machine's /run/test is found from outside.
func (m *Machine) Shared(name string) string { return filepath.Join(m.disk, "shared", name) }

// Changes lists what the machine has and the real one has not, or has otherwise, but for the databases and caches of
// /var that are not named after the product.
func (m *Machine) Changes() []string {
	m.t.Helper()
	upper := filepath.Join(m.disk, "upper")
	var found []string
	await.Must(m.t, filepath.WalkDir(upper, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, upper)
		_, missing := os.Stat("/" + name)
		merged := entry.IsDir() && missing == nil
		if !merged && (!strings.HasPrefix(name, "/var/") || strings.Contains(name, "replypath")) {
			found = append(found, name)
		}
		return nil
	}))
	return found
}

// Log returns what the services have written so far.
func (m *Machine) Log() string {
	m.t.Helper()
	return string(await.Must1[[]byte](m.t)(os.ReadFile(m.Shared("log"))))
}

// Write writes a file of the machine.
func (m *Machine) Write(path, text string) {
	m.t.Helper()
	if m.first == nil {
		file := filepath.Join(m.disk, "upper", path)
		await.Must(m.t, os.MkdirAll(filepath.Dir(file), 0o755))
		await.Must(m.t, os.WriteFile(file, []byte(text), 0o644))
		return
	}
	c := m.Command(m.t.Context(), "sh", "-ec", `mkdir -p "${0%/*}" && cat >"$0"`, path)
	c.Stdin = strings.NewReader(text)
	if output, err := c.CombinedOutput(); err != nil {
		m.t.Fatalf("write %s: %v\n%s", path, err, output)
	}
}

// Install puts the binary under test and its unit where `make install` does, and enables the unit.
func (m *Machine) Install() {
	m.t.Helper()
	const binary = "/usr/local/bin/replypath"
	m.Write(binary, string(await.Must1[[]byte](m.t)(os.ReadFile(product.Binary()))))
	await.Must(m.t, os.Chmod(filepath.Join(m.disk, "upper", binary), 0o755))
	const unit = "/usr/local/lib/systemd/system/replypath.service"
	m.Write(unit, string(await.Must1[[]byte](m.t)(os.ReadFile(packagedUnit))))
	m.Enable("replypath.service", unit)
}

// Enable has a unit started at the next boot.
func (m *Machine) Enable(unit, path string) {
	m.t.Helper()
	wants := filepath.Join(m.disk, "upper/etc/systemd/system/multi-user.target.wants")
	await.Must(m.t, os.MkdirAll(wants, 0o755))
	await.Must(m.t, os.Symlink(path, filepath.Join(wants, unit)))
}

// boot assembles the file systems below the directory $1 and starts systemd. Of the kernel's settings only those of the
// network namespace can be written, and the root of the real machine is out of reach. Nobody runs udev, but its
// database says of every interface that it is done with it.
const boot = `
mount -t overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work machine $1/root
cd $1/root
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/test run/udev/data
mount --bind $1/shared run/test
for device in /proc/sys/net/ipv4/conf/eth*; do
	echo I:1 >run/udev/data/n$(ip -o link show ${device##*/} | cut -d: -f1)
done
mount -t tmpfs tmpfs tmp
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,rw proc/sys/net
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --bind /sys/fs/bpf sys/fs/bpf
mount --bind /dev dev
touch run/test/console
mount --bind run/test/console dev/console
mount -o remount,bind,ro dev
pivot_root . mnt
cd /
umount -l /mnt
export container=test SYSTEMD_GENERATOR_PATH=/nowhere
exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
`

// Boot switches the machine on. It does not wait.
func (m *Machine) Boot() {
	m.t.Helper()
	// Not the test's context: it may be needed until the end.
	c := m.host.Command(context.Background(), "unshare", "--mount", "--propagation", "private", "--cgroup",
		"sh", "-ec", boot, "boot", m.disk)
	c.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	group := NewCgroup(m.t)
	c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(group.Fd())
	m.first = product.StartProgram(m.t, c, unix.SIGKILL)
	m.t.Cleanup(func() {
		if console, err := os.ReadFile(m.Shared("console")); m.t.Failed() {
			m.t.Logf("console: %s %v", console, err)
		}
	})
}

// bootTime is enough for a boot, on a busy machine.
var bootTime = 4 * await.AnswerTime

// WaitBooted returns when all jobs of the boot are done.
func (m *Machine) WaitBooted() {
	m.t.Helper()
	state := func(args ...string) string {
		args = append([]string{"systemctl", "is-system-running"}, args...)
		// Its exit code tells no more than what it says.
		output, _ := m.Command(await.Within(m.t, bootTime), args...).CombinedOutput()
		return strings.TrimSpace(string(output))
	}
	await.Eventually(m.t, "systemd answers", func() error {
		if got := state(); !slices.Contains([]string{"initializing", "starting", "running", "degraded"}, got) {
			return errors.New(got)
		}
		return nil
	})
	// Degraded is one with units that failed.
	if got := state("--wait"); got != "running" && got != "degraded" {
		m.t.Fatalf("the machine has not booted: %s\n%s", got, m.Run("systemctl", "list-jobs"))
	}
}

// PowerOff ends the machine as a power cut does: nothing is told. What a new kernel would not have, it has no more:
// pins, devices, routes and settings.
func (m *Machine) PowerOff() {
	m.t.Helper()
	m.first.Signal(unix.SIGKILL)
	m.first.WaitEnd()
	m.first = nil
	c := m.host.Command(await.Within(m.t, product.CommandTime), product.Binary(), "detach")
	if output, err := c.CombinedOutput(); err != nil {
		m.t.Fatalf("detach: %v\n%s", err, output)
	}
	m.forgetPins()
}

// forgetPins removes whatever the machine has pinned. The kernel's own files stay.
func (m *Machine) forgetPins() {
	m.t.Helper()
	for _, entry := range await.Must1[[]os.DirEntry](m.t)(os.ReadDir(product.BpfDir)) {
		if entry.IsDir() {
			await.Must(m.t, os.RemoveAll(filepath.Join(product.BpfDir, entry.Name())))
		}
	}
}

// Command returns a program to be run on the machine, which is on.
func (m *Machine) Command(ctx context.Context, args ...string) *topology.Cmd {
	target := "--target=" + strconv.Itoa(m.first.PID())
	return m.host.Command(ctx, "nsenter", append([]string{target, "--all", "--"}, args...)...)
}

// Run runs a command of the machine, wants success and returns what it wrote.
func (m *Machine) Run(args ...string) string {
	m.t.Helper()
	output, err := m.Command(m.t.Context(), args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// Refuse runs a command of the machine, wants it to fail and returns what it wrote.
func (m *Machine) Refuse(args ...string) string {
	m.t.Helper()
	output, err := m.Command(m.t.Context(), args...).CombinedOutput()
	if err == nil {
		m.t.Errorf("%s succeeds: %s", strings.Join(args, " "), output)
	}
	return string(output)
}

// Property returns a property of a unit.
func (m *Machine) Property(unit, name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.Run("systemctl", "show", "--property="+name, "--value", unit))
}
