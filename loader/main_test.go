// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/kernel"
	"replypath/test/harness"
)

// TestMain runs the tests in the sandbox. In a child, which is in it already, it is the process that a test needs.
func TestMain(m *testing.M) {
	err := errors.New("no test")
	switch {
	case os.Getenv(daemonVariable) != "":
		err = runDaemon(os.Getenv(daemonVariable))
	case os.Getenv(withoutVariable) != "":
		err = startWithout(os.Getenv(withoutVariable), os.Getenv(lackingVariable))
	default:
		harness.WithoutProduct(func() int { return runTests(m) })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runTests(m *testing.M) (code int) {
	tcx, err := kernel.HaveTCX()
	// The limit of memory during a load is the process's, in which tests run side by side here: they
	// would collect garbage without a pause.
	if err = errors.Join(err, os.Setenv("GOMEMLIMIT", "off")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if !tcx {
		fmt.Println("the kernel has no tcx (Linux 6.6): tests attach by clsact only")
		delete(mechanisms, attach.TCX)
	}
	return m.Run()
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

// pinDir returns a pin directory of the test's own, which does not exist yet.
func pinDir(t *testing.T) string {
	t.Helper()
	return filepath.Join("/sys/fs/bpf", strings.ReplaceAll(t.Name(), "/", "-"))
}
