// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"path/filepath"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// devicesName is the map from which the kernel takes a device that goes.
const devicesName = "devices"

// Devices tell which interfaces have been there all the time, also while no process
// looked. Those of a datapath that is pinned aside know the same by the same ids.
type Devices struct{ maps []*ebpf.Map }

// OpenDevices opens what is pinned. What is missing, or of another version, tells
// nothing.
func OpenDevices(dir string) *Devices {
	d := new(Devices)
	for _, of := range []string{MapsDir, oldMapsDir, newMapsDir} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, of, devicesName), nil)
		if err != nil {
			continue
		}
		if m.Type() != ebpf.DevMap || m.KeySize() != 4 || m.ValueSize() != 4 {
			bpf.Close(m)
			continue
		}
		d.maps = append(d.maps, m)
	}
	return d
}

// DevicesIn tells the same by a map that somebody else closes.
func DevicesIn(m *ebpf.Map) *Devices { return &Devices{[]*ebpf.Map{m}} }

// Have tells whether the device behind an interface id has had this index ever since it
// was entered. Where that is false it was not, or has gone since; known is false where no
// map can tell.
func (d *Devices) Have(id uint16, index int) (have, known bool) {
	if d == nil {
		return false, false
	}
	for _, m := range d.maps {
		var entered uint32
		err := m.Lookup(uint32(id), &entered)
		if err == nil && int(entered) == index {
			return true, true
		}
		known = known || err == nil || errors.Is(err, ebpf.ErrKeyNotExist)
	}
	return false, known
}

// Close closes what OpenDevices opened.
func (d *Devices) Close() {
	for _, m := range d.maps {
		bpf.Close(m)
	}
}
