// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/finding"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

// mountBPF returns a directory on a bpf file system that only the test's own thread sees, in a network namespace of its
// own. Both go with it.
func mountBPF(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the tests of the repairs need root")
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	dir := t.TempDir()
	for _, err := range []error{
		unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("bpf", dir, "bpf", 0, ""),
	} {
		if err != nil {
			t.Fatalf("mount a bpf file system: %v", err)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A change that the kernel refuses is not written down as one that detach takes back; what was made before it is.
func TestRefusedChangeIsNotRecorded(t *testing.T) {
	dir := filepath.Join(mountBPF(t), "a")
	refused := finding.Sysctl{Key: "net.ipv4.conf.lo.arp_ignore", Value: "many"}
	if err := apply(dir, []finding.Sysctl{refused}); err == nil {
		t.Error("the kernel took a word for a number")
	}
	if repairs, err := pins.ReadRepairs(dir); repairs != nil || err != nil {
		t.Errorf("journal %+v, %v", repairs, err)
	}
	made := finding.Sysctl{Key: "net.ipv4.conf.lo.arp_announce", Value: "2"}
	if err := apply(dir, []finding.Sysctl{made, refused}); err == nil {
		t.Error("the kernel took a word for a number")
	}
	if value, err := hostsettings.Read(made.Key); value != made.Value || err != nil {
		t.Errorf("%s is %s, %v", made.Key, value, err)
	}
	repairs, err := pins.ReadRepairs(dir)
	if err != nil || repairs == nil || len(repairs.Sysctls) != 1 || repairs.Sysctls[0].Key != made.Key {
		t.Errorf("journal %+v, %v", repairs, err)
	}
}
