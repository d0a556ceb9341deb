// SPDX-License-Identifier: Apache-2.0

package product

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	// BinaryVariable names the binary to be tested. Without it the one of this checkout is built.
	BinaryVariable = "REPLYPATH_BINARY"

	insideVariable = "REPLYPATH_TEST_SANDBOX"
	BpfDir         = "/sys/fs/bpf"
	ConfigDir      = "/etc/replypath"
	namespaceDir   = "/run/netns"

	// version is what a binary that was built here calls itself.
	version = "0.0.0-test"
)

// Main runs the tests of a package in the sandbox and does not return. It has to be the only thing that TestMain does.
func Main(m *testing.M) { Sandboxed(m.Run) }

// Sandboxed runs what a program does in the sandbox, ends the program with the exit code that it returns, and does not
// return itself. Whatever the program does before, it does twice.
func Sandboxed(run func() int) { sandboxed(run, build) }

// WithoutProduct is Sandboxed for tests that do not run the product, which is not built.
func WithoutProduct(run func() int) {
	sandboxed(run, func(string) (binary string, err error) { return "", nil })
}

func sandboxed(run func() int, build func(dir string) (binary string, err error)) {
	code, err := 0, error(nil)
	if os.Getenv(insideVariable) == "" {
		code, err = runInSandbox(build)
	} else if err = furnish(); err == nil {
		code = run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "test harness:", err)
		code = 1
	}
	os.Exit(code)
}

// runInSandbox runs this program once more, in a mount namespace of its own.
func runInSandbox(build func(dir string) (binary string, err error)) (code int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("network namespaces and bpf programs need root: run the tests as root")
	}
	dir, err := os.MkdirTemp("", "replypath-test-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary, err := build(dir)
	if err != nil {
		return 0, err
	}
	test := exec.Command("/proc/self/exe", os.Args[1:]...)
	// All temporary files are in the directory, which goes whatever becomes of the tests. Programs of other users look
	// for theirs in it.
	if err := os.Chmod(dir, 0o755); err != nil {
		return 0, err
	}
	test.Env = append(os.Environ(), insideVariable+"=1", BinaryVariable+"="+binary, "TMPDIR="+dir)
	test.Stdin, test.Stdout, test.Stderr = os.Stdin, os.Stdout, os.Stderr
	test.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL}
	return runAndForward(test)
}

// runAndForward runs a program and hands on to it the signals that ask this process to end.
func runAndForward(c *exec.Cmd) (code int, err error) {
	// The kernel takes the end of the thread that forked for that of the parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	defer signal.Stop(signals)
	if err := c.Start(); err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			// It may have ended by itself.
			_ = c.Process.Signal(s)
		}
	}()
	err = c.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// build returns the path of the binary to be tested.
func build(dir string) (string, error) {
	if given := os.Getenv(BinaryVariable); given != "" {
		return filepath.Abs(given)
	}
	binary := filepath.Join(dir, "replypath")
	compiler := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X main.version="+version, "-o", binary, "replypath/cmd/replypath")
	compiler.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := compiler.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build replypath: %w\n%s", err, strings.TrimSpace(string(output)))
	}
	return binary, nil
}

// furnish prepares the mount namespace that this process has been started in. The runtime of the parent made its mounts
// private.
func furnish() error {
	if err := unix.Mount("bpf", BpfDir, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount a bpf file system: %w", err)
	}
	// An empty configuration is one without the host's, and `ip` looks up the host's named network namespaces while
	// others may be removing them.
	for _, dir := range []string{ConfigDir, namespaceDir} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	return nil
}

// sources are the packages that the binary is built from, seen from a test package of this directory.
var sources = []string{"../../bpf", "../../cmd", "../../loader", "../../metrics"}

// noteSources looks at every file that the binary under test is built from, so that the go command does not take the
// tests' last result for the present one when only those have changed: it caches by the files that a test opens.
var noteSources = sync.OnceValue(func() error {
	var errs []error
	for _, dir := range sources {
		errs = append(errs, filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // a binary from elsewhere is tested, or somebody is at work
			}
			return err
		}))
	}
	return errors.Join(errs...)
})
