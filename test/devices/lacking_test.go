// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// requiredVariable is set where the kernel is known to have every device: there is nothing to skip then.
const requiredVariable = "REPLYPATH_TEST_ALL_DEVICES"

// made returns a device that was made, or skips the test where the kernel does not have its kind.
func made[T any](t *testing.T, kind string) func(T, error) T {
	return func(device T, err error) T {
		t.Helper()
		if errors.Is(err, unix.EOPNOTSUPP) {
			lacks(t, kind)
		}
		await.Must(t, err)
		return device
	}
}

// lacks skips a test for want of something in the kernel.
func lacks(t *testing.T, what string) {
	t.Helper()
	var name unix.Utsname
	await.Must(t, unix.Uname(&name))
	release := unix.ByteSliceToString(name.Release[:])
	if os.Getenv(requiredVariable) != "" {
		t.Fatalf("Linux %s has no %s", release, what)
	}
	t.Skipf("Linux %s has no %s", release, what)
}
