// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"path/filepath"
)

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
