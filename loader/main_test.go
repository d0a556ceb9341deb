// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"replypath/loader/attach"
	"replypath/loader/kernel"
	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
)

// These tell this binary, started by a test, which of the children it is, on which pin directory, and the argument.
const (
	childVariable    = "REPLYPATH_TEST_CHILD"
	dirVariable      = "REPLYPATH_TEST_DIR"
	argumentVariable = "REPLYPATH_TEST_ARGUMENT"
)

// children are the processes that a test may need besides its own.
var children = map[string]func(o Options, argument string) error{
	"daemon": runDaemon, "dies in its start": dieInStart, "dies attaching": dieAttaching, "lacks a capability": startWithout,
}

// child returns a child that attaches by a mechanism.
func (b *server) child(kind, argument string, by attach.Mechanism) *topology.Cmd {
	c := b.host.Command(b.Context(), "/proc/self/exe")
	c.Env = append(os.Environ(), childVariable+"="+kind+"/"+string(by), dirVariable+"="+b.dir, argumentVariable+"="+argument)
	c.Stderr = b.log
	return c
}

// TestMain runs the tests in the sandbox. A child is in it already.
func TestMain(m *testing.M) {
	kind, by, is := strings.Cut(os.Getenv(childVariable), "/")
	if !is {
		product.WithoutProduct(func() int { return runTests(m) })
	}
	b := &server{dir: os.Getenv(dirVariable), log: new(await.Log), object: hollow("a build")}
	if kind == "lacks a capability" {
		b.object = nil // that the verifier refuses
	}
	if err := children[kind](b.options(func(o *Options) { o.Mechanism = attach.Mechanism(by) }), os.Getenv(argumentVariable)); err != nil {
		fmt.Fprintln(os.Stderr, b.log, err)
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
		mechanisms = []attach.Mechanism{attach.Clsact}
	}
	return m.Run()
}

// runDaemon puts a datapath in place until SIGTERM. It prints a line when it is ready.
func runDaemon(o Options, _ string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	l, err := New(o)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return errors.Join(l.Run(ctx), l.Close())
}

// dieInStart kills the process after so many steps of its start; it returns nil where there are fewer.
func dieInStart(o Options, argument string) error {
	taken, err := strconv.Atoi(argument)
	l := &Loader{newCore(o)}
	steps := start{l.core}.steps()
	if err != nil || taken > len(steps) {
		return err
	}
	return start{l.core}.attempt(append(steps[:taken:taken], die))
}

// dieAttaching kills the process in that moment of its attaching; it returns nil where there are fewer.
func dieAttaching(o Options, argument string) error {
	moment, err := strconv.Atoi(argument)
	if err != nil {
		return err
	}
	l, err := startBy(dieIn(moment))(o)
	if err != nil {
		return err
	}
	return l.Close()
}

func die() error { return unix.Kill(os.Getpid(), unix.SIGKILL) }

// startWithout succeeds if the kernel refuses a start without a capability, which does not look whether it has it.
func startWithout(o Options, capability string) error {
	value, err := cap.FromName(capability)
	set := cap.GetProc()
	for _, v := range []cap.Value{value, cap.SYS_ADMIN} {
		err = errors.Join(err, set.SetFlag(cap.Effective, false, v), set.SetFlag(cap.Permitted, false, v))
	}
	if err = errors.Join(err, set.SetProc()); err != nil {
		return fmt.Errorf("give up %s: %w", capability, err)
	}
	l := &Loader{newCore(o)}
	if err = (start{l.core}).attempt(start{l.core}.steps()); errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		fmt.Println("refused:", err)
		return nil
	}
	return fmt.Errorf("without %s: %v", capability, err)
}

// TestEachCapabilityIsNeeded starts without each of the capabilities in turn. That they are asked for at the start proves
// nothing; here the kernel is asked.
func TestEachCapabilityIsNeeded(t *testing.T) {
	b := newServer(t)
	for _, r := range kernel.Rights {
		output, err := b.child("lacks a capability", strings.ToLower(r.Name()), attach.Auto).Output()
		if err != nil || !strings.Contains(string(output), "refused") {
			t.Errorf("%s %s: %v\n%s", r.Name(), r.Purpose, err, output)
		}
		b.wantNoPins("without " + r.Name())
	}
}
