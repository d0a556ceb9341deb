// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"

	"github.com/gopacket/gopacket"
)

const ethernetSize = 14

// Serialize builds a frame with lengths and checksums filled in, the Ethernet
// header first. The library pads frames to 60 bytes; that is taken off again, as
// the kernel's own frames have no padding either when they pass TC.
func Serialize(ethernet gopacket.SerializableLayer, layers ...gopacket.SerializableLayer) ([]byte, error) {
	buffer := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buffer, opts, layers...); err != nil {
		return nil, fmt.Errorf("build packet: %w", err)
	}
	size := len(buffer.Bytes())
	if err := ethernet.SerializeTo(buffer, gopacket.SerializeOptions{}); err != nil {
		return nil, fmt.Errorf("build frame: %w", err)
	}
	return buffer.Bytes()[:ethernetSize+size], nil
}
