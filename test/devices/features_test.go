// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/traffic"
)

// version is that of a kernel.
type version struct{ major, minor int }

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v version) before(other version) bool {
	return v.major < other.major || v.major == other.major && v.minor < other.minor
}

// running returns the version of the machine's kernel.
func running(t *testing.T) version {
	t.Helper()
	var name unix.Utsname
	await.Must(t, unix.Uname(&name))
	var v version
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &v.major, &v.minor)
	await.Must(t, err)
	return v
}

// since tells from which version on Linux has a feature that is done without
// before. Distributions that put newer parts into older kernels have more.
var since = map[string]version{
	"check_mtu":         {5, 12},
	"kernel_skb":        {6, 2},
	"probe_read":        {5, 10}, // unless it is locked down
	"tail_calls":        {5, 10}, // of amd64's JIT
	"tcx":               {6, 6},
	"repair_udp_source": {5, 14},
}

// TestFeatures compares what the status says about the kernel with the kernel's version: what is missing is told by
// name and with its effect, in the metrics as well, and replies are right without it.
func TestFeatures(t *testing.T) {
	s := newSite(t, ethernet, ethernet)
	traffic.EachQuestion(t, "without replypath", s.wantLost)
	p, _ := product.StartOn(t, s.Server)
	status, metrics, kernel := p.Status(), p.Metrics(), running(t)
	table := p.Expect(0, "status", "--verbose").Stdout
	told := make(map[string]bool)
	for _, f := range status.Features {
		from, depends := since[f.Name]
		if !depends {
			continue
		}
		told[f.Name] = true
		want := !kernel.before(from)
		t.Logf("Linux %s: %s (%s): %t: %s", kernel, f.Name, from, f.Available, f.Effect)
		if f.Available != want {
			t.Errorf("%s is available: %t, on Linux %s", f.Name, f.Available, kernel)
		}
		if got := metrics.Sum("replypath_kernel_feature", "feature="+f.Name); (got == 1) != want {
			t.Errorf("replypath_kernel_feature of %s is %v on Linux %s", f.Name, got, kernel)
		}
		if f.Effect == "" || !strings.Contains(table, f.Effect) {
			t.Errorf("the effect %q of %s is not in the table:\n%s", f.Effect, f.Name, table)
		}
	}
	for name := range since {
		if !told[name] {
			t.Errorf("the status does not tell about %s", name)
		}
	}
	wantMechanism(t, status, kernel)
	traffic.EachQuestion(t, "with replypath", s.wantRight)
}

// wantMechanism wants the programs to be attached by the best that the kernel has.
func wantMechanism(t *testing.T, status *product.Status, kernel version) {
	t.Helper()
	want := "tcx"
	if kernel.before(since["tcx"]) {
		want = "clsact"
	}
	for _, name := range []string{"eth0", "eth1"} {
		i := status.Interface(name)
		if i == nil || i.Mechanism == nil || *i.Mechanism != want {
			t.Errorf("%s is not attached by %s: %+v", name, want, i)
		}
	}
}
