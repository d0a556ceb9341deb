// SPDX-License-Identifier: Apache-2.0

// Command replypath-demo shows on a network of its own what replypath is for: replies that leave by the wrong interface,
// and the same replies with replypath, which it runs as its users do.
//
// Network and mount namespaces have no name, so that nothing is left when the process ends, however it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/topology"
)

const usage = `replypath-demo [-replypath PROGRAM]

Shows replies that leave by the wrong interface, turns replypath on, and shows the right replies, on a network of its
own. It needs root, and touches nothing of this host. Exit code 0 means that it saw both. PROGRAM is REPLYPATH_BINARY,
or else the replypath beside this program, if none is named.`

// patience bounds the whole demo, which takes a few seconds, half a minute on an emulated machine.
const patience = 2 * time.Minute

func main() {
	program := flag.String("replypath", os.Getenv("REPLYPATH_BINARY"), "")
	flag.Usage = func() { fmt.Fprintln(flag.CommandLine.Output(), usage) }
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*program, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "replypath-demo:", err)
		os.Exit(1)
	}
}

// run shows everything and writes about it to out. It returns nil only if the captures and the clients saw the replies go
// wrong without replypath and right with it. A signal that ends a program ends the demo early, with an error.
func run(program string, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("the demo makes network namespaces, which only root may: run it as root")
	}
	if program == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find replypath: %w", err)
		}
		program = filepath.Join(filepath.Dir(self), "replypath")
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done after %s", patience))
	defer cancel()
	if err := ownMounts(); err != nil {
		return err
	}
	d, err := newDemo(ctx, program, topology.StrictSource, out)
	if err == nil {
		err = errors.Join(d.show(ctx), d.close())
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx) // whatever failed did so for this
	}
	if err != nil {
		return fmt.Errorf("the demo ended early, its network is gone: %w", err)
	}
	return d.verdict()
}

// makePrivate keeps what is mounted on a directory from being the machine's as well. Its mount may be one above it, but the
// root directory of a chroot need not be any.
func makePrivate(dir string) error {
	err := unix.Mount("", dir, "", unix.MS_REC|unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EINVAL) && dir != "/" {
		return makePrivate(filepath.Dir(dir))
	}
	return err
}

// ownMounts gives the calling thread, and what it starts, a BPF file system that nobody else sees: the pins in there end
// with the last process that does.
func ownMounts() error {
	runtime.LockOSThread() // never unlocked
	err := unix.Unshare(unix.CLONE_NEWNS)
	if errors.Is(err, unix.EPERM) {
		return errors.New("the demo needs CAP_SYS_ADMIN to make namespaces: in a container, start that as a privileged one")
	}
	if err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := makePrivate(bpfDir); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("bpf", bpfDir, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a BPF file system on %s: %w", bpfDir, err)
	}
	return nil
}
