// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/kernel"
)

// childVariable tells the test binary that it runs in a mount namespace of its
// own, and where the bpf file system is.
const childVariable = "REPLYPATH_TEST_BPFFS"

// TestMain runs the tests in a mount namespace of their own, on a bpf file
// system of their own: whatever they leave pinned goes with them.
func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func runTests(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("the tests of the loader need root")
	}
	if os.Getenv(childVariable) == "" {
		return runInNamespace()
	}
	if dir := os.Getenv(daemonVariable); dir != "" {
		return 0, runDaemon(dir)
	}
	if dir := os.Getenv(withoutVariable); dir != "" {
		return 0, startWithout(dir, os.Getenv(lackingVariable))
	}
	if err := mountBPF(os.Getenv(childVariable)); err != nil {
		return 0, err
	}
	tcx, err := kernel.HaveTCX()
	if err != nil {
		return 0, err
	}
	if !tcx {
		fmt.Println("the kernel has no tcx (Linux 6.6): tests attach by clsact only")
		delete(mechanisms, attach.TCX)
	}
	// The limit of memory during a load is the process's, in which tests run side by side here: they
	// would collect garbage without a pause.
	if err := os.Setenv("GOMEMLIMIT", "off"); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// daemonVariable tells the test binary to serve as a daemon on this pin
// directory.
const daemonVariable = "REPLYPATH_TEST_DAEMON"

// runDaemon puts a datapath in place until SIGTERM. It prints a line when it is
// ready.
func runDaemon(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	options := Options{
		PinDir: dir, Config: config.Default(), Log: log, Version: "daemon",
		Mechanism: attach.Mechanism(os.Getenv(mechanismVariable)),
	}
	if steps := os.Getenv(dieVariable); steps != "" {
		return dieInStart(options, steps)
	}
	if moment := os.Getenv(dieAttachingVariable); moment != "" {
		return dieAttaching(options, moment)
	}
	l, err := New(options)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return errors.Join(l.Run(ctx), l.Close())
}

// mechanismVariable tells a daemon how to attach; what the kernel has is chosen where it is empty.
const mechanismVariable = "REPLYPATH_TEST_MECHANISM"

// dieVariable tells a daemon after how many steps of its start it is killed,
// dieAttachingVariable in which moment of its attaching.
const (
	dieVariable          = "REPLYPATH_TEST_DIE_AFTER"
	dieAttachingVariable = "REPLYPATH_TEST_DIE_ATTACHING"
)

// dieInStart returns nil where there are fewer steps.
func dieInStart(options Options, after string) error {
	count, err := strconv.Atoi(after)
	if err != nil {
		return err
	}
	l := &Loader{newCore(options)}
	steps := start{l.core}.steps()
	if count > len(steps) {
		return nil
	}
	return start{l.core}.attempt(append(steps[:count:count], die))
}

func die() error { return unix.Kill(os.Getpid(), unix.SIGKILL) }

// dieAttaching returns nil where there are fewer moments.
func dieAttaching(options Options, in string) error {
	moment, err := strconv.Atoi(in)
	if err != nil {
		return err
	}
	l, err := (&dying{moments: moment}).start(options)
	if err != nil {
		return err
	}
	return l.Close()
}

// runInNamespace runs this binary once more.
func runInNamespace() (int, error) {
	dir, err := os.MkdirTemp("", "replypath-bpffs")
	if err != nil {
		return 0, err
	}
	defer os.Remove(dir)
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), childVariable+"="+dir)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err = c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func mountBPF(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount a bpf file system: %w", err)
	}
	return nil
}

// pinDir returns a pin directory of the test's own, which does not exist yet.
func pinDir(t *testing.T) string {
	t.Helper()
	return filepath.Join(os.Getenv(childVariable), strings.ReplaceAll(t.Name(), "/", "-"))
}
