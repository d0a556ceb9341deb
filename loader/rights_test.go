// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"replypath/loader/kernel"
	"replypath/test/topology"
)

// These tell the test binary to start on this pin directory without a capability,
// and without looking whether it has it.
const (
	withoutVariable = "REPLYPATH_TEST_WITHOUT"
	lackingVariable = "REPLYPATH_TEST_LACKING"
)

// startWithout succeeds if the kernel refuses the start.
func startWithout(dir, lacking string) error {
	value, err := cap.FromName(lacking)
	if err != nil {
		return err
	}
	set := cap.GetProc()
	for _, v := range []cap.Value{value, cap.SYS_ADMIN} {
		if err := errors.Join(set.SetFlag(cap.Effective, false, v), set.SetFlag(cap.Permitted, false, v)); err != nil {
			return err
		}
	}
	if err := set.SetProc(); err != nil {
		return fmt.Errorf("give up %s: %w", lacking, err)
	}
	b := &bed{dir: dir, log: new(log)}
	l := &Loader{newCore(b.options(nil))}
	err = start{l.core}.attempt(start{l.core}.steps())
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		fmt.Println("refused:", err)
		return nil
	}
	return fmt.Errorf("without %s: %v", lacking, err)
}

// TestEachCapabilityIsNeeded starts without each of the capabilities in turn. That
// they are asked for at the start proves nothing; here the kernel is asked.
func TestEachCapabilityIsNeeded(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	for _, r := range kernel.Rights {
		c := b.host.Command(within(t), "/proc/self/exe")
		c.Env = append(os.Environ(), withoutVariable+"="+b.dir, lackingVariable+"="+strings.ToLower(r.Name()))
		output, err := c.CombinedOutput()
		if err != nil || !strings.Contains(string(output), "refused") {
			t.Errorf("%s %s: %v\n%s", r.Name(), r.Purpose, err, output)
		}
		t.Logf("without %s: %s", r.Name(), output)
		if _, err := os.Stat(b.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without %s: the pin directory: %v", r.Name(), err)
		}
	}
}
