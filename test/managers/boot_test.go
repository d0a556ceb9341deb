package managers

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// unitFile is what is installed.
const unitFile = "../../packaging/replypath.service"

// packagedUnit returns the unit with the binary under test, which is to lie where
// the unit's sandbox shows it.
func packagedUnit(t *testing.T, binary string) string {
	t.Helper()
	text := string(harness.Must1[[]byte](t)(os.ReadFile(unitFile)))
	const installed = "/usr/local/bin/replypath"
	if !strings.Contains(text, installed) {
		t.Fatalf("the unit does not start %s", installed)
	}
	return strings.ReplaceAll(text, installed, binary)
}

// TestUnit has systemd check the packaged unit, together with networkd's.
func TestUnit(t *testing.T) {
	unit := filepath.Join(t.TempDir(), "replypath.service")
	harness.Must(t, os.WriteFile(unit, []byte(packagedUnit(t, harness.Binary())), 0o644))
	n := topology.New(topology.Options{})
	t.Cleanup(func() { n.Close() })
	host := harness.Must1[*topology.Host](t)(n.Host("host"))
	c := host.Command(harness.Within(t, harness.AnswerTime), "systemd-analyze", "verify", "--man=no", unit, "systemd-networkd.service")
	if output, err := c.CombinedOutput(); err != nil || len(output) > 0 {
		t.Errorf("%v\n%s", err, output)
	}
}

// boot prepares a machine as the kernel leaves it, with systemd as its first
// process, which is shown a few units and no others: those of a whole machine
// would set up, and clean up, the real one. To be sure of that, every file system
// of the real machine is read-only here, its /tmp is out of sight, and of the
// kernel's settings only those of the network namespace can be written.
//
// The arguments are the directory of the test's files and the binary.
const boot = `
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/test /run/bpf /run/units /run/systemd/network /run/udev/data
mount --bind $1 /run/test
mount --bind /sys/fs/bpf /run/bpf
cp $2 /run/replypath
for device in /proc/sys/net/ipv4/conf/eth*; do
	echo I:1 >/run/udev/data/n$(ip -o link show ${device##*/} | cut -d: -f1)
done
cp /run/test/*.network /run/systemd/network
cp /run/test/*.service /run/test/*.target /run/units
for unit in systemd-networkd.service network.target network-pre.target; do
	cp /lib/systemd/system/$unit /run/units
done
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /var
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys
mount --bind /proc/sys/net /proc/sys/net && mount -o remount,bind,rw /proc/sys/net
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --move /run/bpf /sys/fs/bpf
touch /run/test/console && mount --bind /run/test/console /dev/console
for place in / /dev; do mount -o remount,bind,ro $place; done
if touch /etc/replypath-test 2>/dev/null; then echo the root file system can be written; exit 1; fi
export container=test SYSTEMD_UNIT_PATH=/run/units SYSTEMD_GENERATOR_PATH=/nowhere
exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
`

// units beside the packaged one. The targets replace those that would start all
// that a whole machine has.
func units(t *testing.T) map[string]string {
	t.Helper()
	target := func(text string) string { return "[Unit]\nDefaultDependencies=no\n" + text }
	return map[string]string{
		"replypath.service": packagedUnit(t, "/run/replypath"),
		"sysinit.target":    target(""),
		"basic.target":      target("Requires=sysinit.target\nAfter=sysinit.target\n"),
		"shutdown.target":   target(""),
		"multi-user.target": target("Requires=basic.target\nAfter=basic.target\n" +
			"Wants=replypath.service systemd-networkd.service asked.service\n"),
		"asked.service": `[Unit]
After=network.target
[Service]
Type=oneshot
ExecStart=sh -c '/run/replypath status -o json >/run/test/asked.part; mv /run/test/asked.part /run/test/asked'
`,
	}
}

// TestBootBySystemd boots the packaged service: whoever waits for the network
// finds it ready, and questions are answered right as soon as there are addresses.
func TestBootBySystemd(t *testing.T) {
	n, _ := newServer(t)
	dir := t.TempDir()
	files := units(t)
	files["10-eth0.network"], files["10-eth1.network"] = eth0File(n), eth1File(n)
	for name, text := range files {
		harness.Must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	forgetAddresses(t, n)
	p := harness.On(t, n.Server.Host).WithPinDir("") // as the unit has it
	startMachine(t, n.Server.Host, dir)
	t.Cleanup(func() {
		if console, err := os.ReadFile(filepath.Join(dir, "console")); t.Failed() {
			t.Logf("console: %s %v", console, err)
		}
	})

	harness.Eventually(t, "the network may be used", func() error {
		_, err := os.Stat(filepath.Join(dir, "asked"))
		return err
	})
	found := string(harness.Must1[[]byte](t)(os.ReadFile(filepath.Join(dir, "asked"))))
	if !strings.Contains(found, `"running": true`) {
		t.Errorf("replypath is not there when the network may be used: %s", found)
	}
	waitManaged(t, p)
	eachKind(t, n, "after boot", func(t *testing.T, c *harness.Conversation) { wantByEth1(t, n, c) })
	wantManaged(t, p)
	p.Expect(0, "detach", "--stop")
}

// startMachine starts the first process of a machine in namespaces of its own, but
// for the network's.
func startMachine(t *testing.T, host *topology.Host, dir string) {
	t.Helper()
	c := host.Command(context.Background(), "unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation", "private",
		"--cgroup", "--uts", "--ipc", "sh", "-ec", boot, "boot", dir, harness.Binary())
	group := newCgroup(t)
	c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(group.Fd())
	harness.StartProgram(t, c, unix.SIGKILL)
}

// newCgroup makes a control group, which is removed with those below it at the end
// of the test.
func newCgroup(t *testing.T) *os.File {
	t.Helper()
	mounts := string(harness.Must1[[]byte](t)(os.ReadFile("/proc/self/mounts")))
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if fields[2] != "cgroup2" {
			continue
		}
		path := harness.Must1[string](t)(os.MkdirTemp(fields[1], "replypath-test-"))
		group := harness.Must1[*os.File](t)(os.Open(path))
		t.Cleanup(func() {
			group.Close()
			harness.Eventually(t, "the control groups are empty", func() error { return removeCgroup(path) })
		})
		return group
	}
	t.Fatal("no cgroup2 file system is mounted")
	return nil
}

// removeCgroup removes a control group and those below it.
func removeCgroup(path string) error {
	var groups []string
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			groups = append(groups, path)
		}
		return err
	})
	for _, group := range slices.Backward(groups) {
		err = errors.Join(err, unix.Rmdir(group))
	}
	return err
}
