// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// machine is a virtual machine that boots, runs its tests and powers off.
type machine struct {
	version string // of its kernel
	kind    *architecture
	qemu    string // directory
	kernel  *kernel
	initrd  string
	results string // directory
}

// consoleLog is the kernel's console among the results.
const consoleLog = "console.log"

// test runs suites, which its initial file system lists, and returns what became of them.
func (m *machine) test(ctx context.Context, suites []suite) (*outcome, error) {
	fmt.Printf("== Linux %s (%s)\n", m.version, m.kernel.release)
	if err := os.RemoveAll(m.results); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(m.results, 0o755); err != nil {
		return nil, err
	}
	command := append([]string{m.kind.program(m.qemu)}, m.arguments()...)
	if slices.ContainsFunc(suites, func(s suite) bool { return s.nics }) {
		command = withNICs(command)
	}
	return m.run(ctx, command, totalTime(suites))
}

// run returns what became of the suites. The virtual machine is gone then, and also when this process is killed.
func (m *machine) run(ctx context.Context, command []string, timeout time.Duration) (*outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	console, err := os.Create(filepath.Join(m.results, consoleLog))
	if err != nil {
		return nil, err
	}
	defer console.Close()
	from, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer from.Close()
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.Stdout, c.Stderr, c.ExtraFiles = console, console, []*os.File{to}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	// The kernel takes the end of the thread that forked for that of the parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := errors.Join(c.Start(), to.Close()); err != nil {
		return nil, err
	}
	o := &outcome{version: m.version, release: m.kernel.release, suites: make(map[string]*suiteOutcome)}
	results := results{outcome: o, dir: m.results, began: time.Now()}
	readErr := results.read(from)
	err = c.Wait()
	switch {
	case readErr != nil:
		return nil, readErr
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		o.end = fmt.Sprintf("it did not end within %s", timeout)
	case ctx.Err() != nil:
		o.end = "it was given up"
	case err != nil:
		o.end = fmt.Sprintf("QEMU: %v", err)
	case !results.done:
		o.end = "it died"
	}
	return o, nil
}

// arguments are those of QEMU. Nothing of this machine is seen in the virtual
// one but what the initial file system brings.
func (m *machine) arguments() []string {
	return slices.Concat(m.kind.hardware, []string{
		"-L", filepath.Join(m.qemu, "usr/share/qemu"), "-L", filepath.Join(m.qemu, "usr/share/seabios"),
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none",
		"-accel", "tcg,thread=multi", "-smp", "2", "-m", "3072",
		"-no-reboot", "-kernel", m.kernel.image(), "-initrd", m.initrd,
		"-serial", "file:/dev/fd/1", "-serial", "file:/dev/fd/3",
		// The kernel hands what it does not know to its first process.
		"-append", fmt.Sprintf("console=%s results=%s loglevel=4 panic=-1 mitigations=off nokaslr random.trust_cpu=on "+
			"bonding.max_bonds=0 dummy.numdummies=0", m.kind.consoles[0], m.kind.consoles[1]),
	})
}

// nicModels are the NICs that QEMU emulates for the suites that need them: two cables between two of each.
var nicModels = []string{"virtio-net-pci", "e1000e", "vmxnet3"}

const cablesOfModel = 2

// cablesScript lays so many cables and starts a program.
//
//go:embed cables.sh
var cablesScript string

// withNICs is the command of an emulator whose machine has the NICs. Their MACs count them, the ends of a cable one after the
// other. They are on taps, which take packets that are still to be segmented or lack a checksum: QEMU's sockets do not, and
// a virtio-net on one has no offloads.
func withNICs(command []string) []string {
	cables := 0
	for _, model := range nicModels {
		for range cablesOfModel {
			for i, end := range []string{"a", "b"} {
				tap := fmt.Sprint("cable", cables, end)
				command = append(command,
					"-netdev", "tap,script=no,downscript=no,id="+tap+",ifname="+tap,
					"-device", fmt.Sprintf("%s,netdev=%s,romfile=,mac=52:54:00:00:%02x:%02x", model, tap, cables, i))
			}
			cables++
		}
	}
	return slices.Concat([]string{"unshare", "--net", "sh", "-c", cablesScript, "sh", strconv.Itoa(cables)}, command)
}

// architecture is one that virtual machines have.
type architecture struct {
	name             string // Debian's and Go's
	metaPackage      string // which depends on the newest kernel
	emulator         string
	emulatorPackages []string
	hardware         []string // arguments of the emulator
	consoles         [2]string
	// foreign is true where the programs of this machine do not run in the virtual one.
	foreign bool
}

var amd64 = &architecture{
	name: "amd64", metaPackage: "linux-image-amd64", emulator: "qemu-system-x86_64",
	emulatorPackages: []string{"qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"},
	hardware: []string{
		"-machine", "q35,hpet=off,usb=off,sata=off,smbus=off", "-cpu", "max,-cx16",
	},
	consoles: [2]string{"ttyS0", "ttyS1"},
}

// arm64 has the weaker memory order. Its second serial port is one of the PCI bus.
var arm64 = &architecture{
	name: "arm64", metaPackage: "linux-image-arm64", emulator: "qemu-system-aarch64",
	emulatorPackages: []string{"qemu-system-arm", "qemu-system-common", "qemu-system-data"},
	hardware:         []string{"-machine", "virt", "-cpu", "neoverse-n1"},
	consoles:         [2]string{"ttyAMA0", "ttyAMA1"},
	foreign:          true,
}

// packageList are the packages of a foreign architecture whose programs the tests run.
//
//go:embed userland.txt
var packageList string

// userlandSuite is where they come from.
const userlandSuite = "bookworm"

// program returns where the emulator is below its directory.
func (a *architecture) program(dir string) string { return filepath.Join(dir, "usr/bin", a.emulator) }
