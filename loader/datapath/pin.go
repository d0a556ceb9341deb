// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"replypath/bpf"
)

// Pin puts the maps and programs in the place of earlier ones. These stay pinned
// aside until Commit.
func (d *Datapath) Pin() error {
	err := d.dir.RemoveAtOnce(newMapsDir)
	if err == nil {
		_, err = d.pinMissing(newMapsDir)
	}
	if err != nil {
		return errors.Join(err, d.dir.RemoveAtOnce(newMapsDir))
	}
	if err := d.dir.Supplant(newMapsDir, MapsDir, oldMapsDir); err != nil {
		return errors.Join(err, Settle(d.dir), d.dir.RemoveAtOnce(newMapsDir))
	}
	d.pinned = true
	return d.maps.enterTails(d.programs)
}

// PinAgain pins what is not pinned any more, as somebody has removed it; true if there was
// anything. It is what the programs and this process work with all the time.
func (d *Datapath) PinAgain() (pinned bool, err error) {
	if !d.pinned {
		return false, nil
	}
	if err := os.MkdirAll(d.dir.Path(LinksDir), 0o700); err != nil {
		return false, fmt.Errorf("create directory for links: %w", err)
	}
	return d.pinMissing(MapsDir)
}

// pinMissing pins what is not pinned in a directory.
func (d *Datapath) pinMissing(in string) (pinned bool, err error) {
	if err := os.MkdirAll(d.dir.Path(in, programsDir), 0o700); err != nil {
		return false, fmt.Errorf("create directory for maps: %w", err)
	}
	ifMissing := func(name string, put func(path string) error) {
		if err == nil && !d.dir.Has(filepath.Join(in, name)) {
			pinned, err = true, put(d.dir.Path(in, name))
		}
	}
	ifMissing(layoutName, pinLayout)
	ifMissing(notesName, func(path string) error { return pin(d.notebook.notes, "what programs are made of", path) })
	for name, m := range d.maps.all {
		ifMissing(pinName(name), func(path string) error { return d.maps.ids.pin(name, m, path) })
	}
	for name, program := range d.programs.byName {
		ifMissing(filepath.Join(programsDir, name), func(path string) error { return pin(program, "program "+name, path) })
	}
	return pinned, err
}

// Commit forgets what Pin took the place of, so that the kernel can free it.
func (d *Datapath) Commit() error {
	errs := []error{d.dir.RemoveAtOnce(oldMapsDir), d.notebook.earlier.Close()}
	closeAll(d.maps.replaced)
	d.notebook.earlier, d.notebook.noted = nil, nil
	clear(d.maps.replaced)
	return errors.Join(errs...)
}

// Unpin takes back what Pin did, if it did anything.
func (d *Datapath) Unpin() error {
	if !d.pinned {
		return nil
	}
	d.pinned = false
	if !d.dir.Has(oldMapsDir) {
		return d.dir.RemoveAtOnce(MapsDir)
	}
	var errs []error
	if !d.maps.fresh[bpf.DatapathMapTails] {
		errs = append(errs, d.maps.enterTails(d.notebook.earlier))
	}
	return errors.Join(append(errs, PutBack(d.dir))...)
}

// KeepsAside tells whether what Pin has taken the place of is still pinned.
func (d *Datapath) KeepsAside() bool { return d.dir.Has(filepath.Join(oldMapsDir, programsDir)) }
