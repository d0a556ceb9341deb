// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"replypath/loader/pins"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/wire"
)

const service = "replypath.service"

// capabilities are what the unit grants, with words of what the program says that each is for.
var capabilities = map[string]string{
	"CAP_BPF":       "to load programs",
	"CAP_NET_ADMIN": "to attach programs",
	"CAP_PERFMON":   "to let programs read the kernel's sockets",
}

// running prepares a machine on which the packaged service runs, and the network is that of the test.
func running(t *testing.T) (*host.Machine, *product.Product) {
	t.Helper()
	n, _ := newServer(t)
	p := product.On(t, n.Server.Host).WithPinDir(pins.DefaultDir)
	m := host.NewMachine(t, n.Server.Host)
	m.Install()
	m.Boot()
	m.WaitBooted()
	waitManaged(t, p)
	return m, p
}

// dropIn changes the service for its next start; empty takes that back.
func dropIn(m *host.Machine, lines string) {
	m.Write("/etc/systemd/system/"+service+".d/test.conf", "[Service]\n"+lines)
	m.Run("systemctl", "daemon-reload")
}

// refusal restarts the service with a change that does not let it start, and returns what it says.
func refusal(t *testing.T, m *host.Machine, lines string) string {
	t.Helper()
	dropIn(m, "Restart=no\n"+lines)
	before := len(m.Log())
	m.Refuse("systemctl", "restart", service)
	return m.Log()[before:]
}

// lastWords returns the only line that a program ended with in a log, where what the one before has logged at its end
// may stand too.
func lastWords(t *testing.T, log string) string {
	t.Helper()
	var found []string
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "replypath: ") {
			found = append(found, strings.TrimSpace(line))
		}
	}
	if len(found) != 1 {
		t.Errorf("not one line that it ended with, but %q in %q", found, log)
	}
	return strings.Join(found, "\n")
}

// TestUnitCapabilities takes each of the unit's capabilities away in turn: the service does not start, and says which
// it lacks and what for.
func TestUnitCapabilities(t *testing.T) {
	m, p := running(t)
	granted := strings.Fields(strings.ToUpper(m.Property(service, "CapabilityBoundingSet")))
	await.Same(t, "rights that the unit grants", len(capabilities), len(granted))
	for _, name := range granted {
		said := lastWords(t, refusal(t, m, "CapabilityBoundingSet=~"+name+"\n"))
		if purpose := name + " " + capabilities[name]; capabilities[name] == "" || !strings.Contains(said, purpose) {
			t.Errorf("without %s it says %q, not %q", name, said, purpose)
		}
		t.Logf("without %s: %s", name, said)
	}
	dropIn(m, "")
	m.Run("systemctl", "restart", service)
	wantManaged(t, p)
	pid := m.Property(service, "MainPID")
	status := m.Run("cat", "/proc/"+pid+"/status")
	all := mask(t, granted)
	await.Says(t, "status of the process", status, "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapEff:\t"+all+"\n", "CapBnd:\t"+all+"\n")
}

// mask is how /proc shows a set of capabilities.
func mask(t *testing.T, names []string) string {
	t.Helper()
	var bits uint64
	for _, name := range names {
		bits |= 1 << await.Must1[cap.Value](t)(cap.FromName(strings.ToLower(name)))
	}
	return fmt.Sprintf("%016x", bits)
}

// TestUnitForbidsNothingNeeded has the service do all that it does on a host: nothing of it is refused.
func TestUnitForbidsNothingNeeded(t *testing.T) {
	n, _ := newServer(t)
	await.Must(t, n.Server.Host.SetSysctl("net/ipv4/conf/eth1/rp_filter", "1")) // to be loosened
	p := product.On(t, n.Server.Host).WithPinDir(pins.DefaultDir)
	m := host.NewMachine(t, n.Server.Host)
	m.Install()
	m.Write("/etc/replypath/replypath.yaml", "repair_udp_source: true\n") // to be attached to the cgroup
	m.Boot()
	m.WaitBooted()
	waitManaged(t, p)
	m.Write("/etc/replypath/replypath.yaml", "repair_udp_source: true\nflow_table: {max_entries: 4096}\n")
	before := p.Status().Flows.Capacity
	m.Run("systemctl", "reload", service)
	await.Becomes(t, "the tables have another size", true, func() bool { return p.Status().Flows.Capacity != before })
	await.Must1[string](t)(p.Get("/metrics"))
	status := p.Status()
	if len(status.Errors) > 0 {
		t.Errorf("errors: %q", status.Errors)
	}
	await.Same(t, "rp_filter of eth1", 2, *status.Interface("eth1").RPFilter)
	for _, f := range status.Features {
		if f.Name == "repair_udp_source" && !f.Available {
			t.Errorf("%s: %s", f.Name, f.Effect)
		}
	}
	wantNotInLog(t, m, "level=WARN", "level=ERROR")
	wantManaged(t, p)
	// Routes and neighbours are set where the way out is gone.
	await.Must(t, n.Server.Eth0.SetDown())
	await.Becomes(t, "families that use the fallback route", 2, func() float64 { return p.Metrics().Sum("replypath_fallback_active") })
	eachQuestion(t, n, "without eth0", wire.WantByEth1)
	wantNotInLog(t, m, "permitted", "denied", "read-only")
	t.Logf("%d changes of the host, %d features looked for, 2 fallback routes in use, tables of %d and then %d flows: nothing is refused",
		len(status.HostChanges), len(status.Features), before, status.Flows.Capacity)
}

func wantNotInLog(t *testing.T, m *host.Machine, signs ...string) {
	t.Helper()
	for _, sign := range signs {
		if strings.Contains(m.Log(), sign) {
			t.Errorf("%q is in the log", sign)
		}
	}
}

// TestUnitSystemCalls takes bpf(2), which no group of system calls has, from the filter: the service does not start,
// and says what the kernel refused.
func TestUnitSystemCalls(t *testing.T) {
	m, p := running(t)
	said := lastWords(t, refusal(t, m, "SystemCallFilter=~bpf\n"))
	await.Says(t, "the service", said, "not supported here: bpf(2) is refused")
	t.Logf("without bpf(2): %s", said)
	dropIn(m, "")
	m.Run("systemctl", "restart", service)
	wantManaged(t, p)
}

// TestUnitFileSystem writes where the service runs: only pins and sysctls of the network can be written. The machine
// itself can write to all of these places.
func TestUnitFileSystem(t *testing.T) {
	m, _ := running(t)
	inside := []string{"nsenter", "--mount", "--target", m.Property(service, "MainPID"), "sh", "-c"}
	closed := []string{"/usr/bin/x", "/etc/x", "/var/lib/x", "/opt/x", "/run/x"}
	for _, path := range closed {
		write := "echo 1 >" + path
		m.Run("sh", "-c", write)
		await.Says(t, write, m.Refuse(append(inside, write)...), "Read-only file system")
	}
	m.Refuse(append(inside, "mkdir /sys/fs/cgroup/x")...)
	m.Refuse(append(inside, "test -e /dev/net/tun -o -e /dev/mem")...)
	m.Run(append(inside, "mkdir /sys/fs/bpf/x && rmdir /sys/fs/bpf/x")...)
	settings := []string{"ipv4/conf/eth1/rp_filter", "ipv6/neigh/eth1/ucast_solicit"}
	for _, setting := range settings {
		m.Run(append(inside, "cat /proc/sys/net/"+setting+" >/proc/sys/net/"+setting)...)
	}
	wantWritable(t, m.Run(append(inside, "cat /proc/self/mountinfo")...))
	t.Logf("%q, cgroups and devices are refused; pins and %q are not", closed, settings)
}

// writable are the only mounts of the service that can be written, but for those of its own /dev.
var writable = []string{"/proc/sys/net", "/sys/fs/bpf"}

// wantWritable wants no other in a mountinfo (proc_pid_mountinfo(5)): what is no mount of its own, such as /etc, is as
// the one that it lies in, and /proc/sys/kernel is tried by nobody, as it is the real machine's.
func wantWritable(t *testing.T, mountinfo string) {
	t.Helper()
	const point, options = 4, 5
	var found, closed []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(fields[point], "/dev/"):
		case strings.HasPrefix(fields[options]+",", "rw,"):
			found = append(found, fields[point])
		default:
			closed = append(closed, fields[point])
		}
	}
	slices.Sort(found)
	if !slices.Equal(found, writable) {
		t.Errorf("%q can be written, not %q:\n%s", found, writable, mountinfo)
	}
	for _, mount := range []string{"/", "/proc", "/run", "/sys", "/sys/fs/cgroup"} {
		if !slices.Contains(closed, mount) {
			t.Errorf("%s is not mounted read-only:\n%s", mount, mountinfo)
		}
	}
	t.Logf("of %d mounts only %q can be written", len(found)+len(closed), found)
}

// TestReloadOnlyAfterCheck reloads by systemctl: a file that is not valid never reaches the process.
func TestReloadOnlyAfterCheck(t *testing.T) {
	m, p := running(t)
	const file = "/etc/replypath/replypath.yaml"
	reloads := func() int { return strings.Count(m.Log(), "configuration re") } // reloaded, refused
	m.Write(file, "mode: sideways\n")
	before := len(m.Log())
	m.Refuse("systemctl", "reload", service)
	if said := m.Log()[before:]; !strings.Contains(said, "sideways") || !strings.Contains(said, file) {
		t.Errorf("the reload says %q", said)
	}
	m.Write(file, "mode: observe\n")
	m.Run("systemctl", "reload", service)
	await.Becomes(t, "the mode", "observe", func() string { return p.Status().Mode })
	t.Logf("1 reload refused, 1 done: the process was asked %d times", reloads())
	if got := reloads(); got != 1 {
		t.Errorf("the process was asked to reload %d times, not once:\n%s", got, m.Log())
	}
}

// killAgain kills the service $0 times, each time as soon as it is there.
const killAgain = `
show() { systemctl show --property=$1 --value replypath; }
while [ $(show NRestarts) -lt $0 ]; do
	case $(show ActiveState) in
		active) kill -KILL $(show MainPID) || true ;; # it may be gone already
		failed) exit 1 ;;
	esac
	sleep 0.1
done
`

// TestRestartsWithoutLimit kills the service again and again, where one restart would be too many if there was a limit.
// Replies stay right all the time.
func TestRestartsWithoutLimit(t *testing.T) {
	n, _ := newServer(t)
	p := product.On(t, n.Server.Host).WithPinDir(pins.DefaultDir)
	m := host.NewMachine(t, n.Server.Host)
	m.Install()
	m.Write("/etc/systemd/system/"+service+".d/test.conf", "[Unit]\nStartLimitBurst=1\n[Service]\nRestartSec=1ms\n")
	m.Boot()
	m.WaitBooted()
	waitManaged(t, p)
	load := startLoad(t, n)
	const kills = 6
	m.Run("sh", "-ec", killAgain, strconv.Itoa(kills))
	await.Becomes(t, "its state", "active", func() string { return m.Property(service, "ActiveState") })
	t.Logf("%d kills, %s restarts, %s", kills, m.Property(service, "NRestarts"), load.Stop())
	wantManaged(t, p)
}

// rights is where the figure stands.
const rights = "../../docs/guide/rights.md"

// TestSecurityFigure compares the figure in the documentation with what systemd-analyze says of the unit. It depends on
// systemd's version.
func TestSecurityFigure(t *testing.T) {
	analyze := func(args ...string) string {
		output, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("systemd-analyze %v: %v\n%s", args, err, output)
		}
		return string(output)
	}
	output := analyze("security", "--offline=true", "--no-pager", unitFile)
	figure := regexp.MustCompile(`Overall exposure level for replypath.service: ([0-9.]+)`).FindStringSubmatch(output)
	if figure == nil {
		t.Fatal(output)
	}
	want := fmt.Sprintf("systemd %s: exposure level %s", strings.Fields(analyze("--version"))[1], figure[1])
	t.Log(want)
	await.Says(t, rights, string(await.Must1[[]byte](t)(os.ReadFile(rights))), want)
}
