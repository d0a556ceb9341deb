// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
)

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
