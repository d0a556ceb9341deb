package demo

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// executable is this program, also when its file has been replaced.
	executable = "/proc/self/exe"
	// bpfDir is the default place of pins. The kernel makes the directory.
	bpfDir = "/sys/fs/bpf"
	// mountsVariable tells the program, started anew, which mount namespace was
	// prepared for it.
	mountsVariable = "REPLYPATH_DEMO_MOUNTS"
)

// enterOwnMounts gives the process a mount namespace of its own with a BPF file
// system that nobody else sees: the pins in there end with the last process of
// the demo. The host needs none itself.
//
// A mount namespace belongs to a thread until it executes a program, so this
// starts the program anew, in the same process, and does not return the first
// time.
func enterOwnMounts() error {
	namespace, err := mountNamespace()
	if err != nil {
		return err
	}
	if os.Getenv(mountsVariable) == namespace {
		return os.Unsetenv(mountsVariable)
	}
	// Never unlocked: the thread must not serve another goroutine afterwards.
	runtime.LockOSThread()
	if err := unshareMounts(); err != nil {
		return err
	}
	if namespace, err = mountNamespace(); err != nil {
		return err
	}
	environment := append(os.Environ(), mountsVariable+"="+namespace)
	return fmt.Errorf("start %s anew: %w", executable, syscall.Exec(executable, os.Args, environment))
}

// unshareMounts changes the calling thread's mount namespace alone.
func unshareMounts() error {
	err := unix.Unshare(unix.CLONE_NEWNS)
	if errors.Is(err, unix.EPERM) {
		return errors.New("the demo needs CAP_SYS_ADMIN to make namespaces: in a container, start that as a privileged one")
	}
	if err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	// Without this the mount below would be the host's as well.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("bpf", bpfDir, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpf file system on %s: %w", bpfDir, err)
	}
	return nil
}

// mountNamespace identifies the mount namespace of the calling thread.
func mountNamespace() (string, error) {
	namespace, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return "", fmt.Errorf("identify the mount namespace: %w", err)
	}
	return namespace, nil
}
