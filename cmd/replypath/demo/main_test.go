// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain makes the test program the heir of whatever a demo leaves running, and plays `replypath run` on a host where
// that fails: see TestFailedStart.
func TestMain(m *testing.M) {
	if os.Args[0] == "replypath" {
		fmt.Fprintln(os.Stderr, failedStart)
		os.Exit(1)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become the heir of orphans:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(buildDir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// buildDir is removed at the end of all tests.
var buildDir string

// buildProgram makes the program once for all tests.
var buildProgram = sync.OnceValues(func() (string, error) {
	var err error
	if buildDir, err = os.MkdirTemp("", "replypath-demo-test"); err != nil {
		return "", err
	}
	// So that TestNeedsRoot may execute it.
	if err := os.Chmod(buildDir, 0o755); err != nil {
		return "", err
	}
	program := filepath.Join(buildDir, "replypath")
	build := exec.Command("go", "build", "-o", program, "replypath/cmd/replypath")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, output)
	}
	return program, nil
})

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root: run the tests as root")
	}
}
