package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/pins"
)

// Directories below the pin directory. What belongs to one datapath is pinned
// below MapsDir, and is put in place all at once.
const (
	MapsDir     = "maps"
	LinksDir    = "links"
	newMapsDir  = "maps-new" // is about to take the place of MapsDir
	oldMapsDir  = "maps-old" // whose place it took
	programsDir = "programs" // below MapsDir
)

// PinNames returns the names of everything that is pinned in a directory beside
// the journal.
func PinNames() []string { return []string{MapsDir, newMapsDir, oldMapsDir, LinksDir} }

const (
	swapPatience = time.Second // two renames
	swapAttempts = 10          // at least: on a busy machine one alone may take longer than that
	swapPoll     = time.Millisecond
)

// errSwapped says that what was opened was being replaced.
var errSwapped = errors.New("the pinned maps are being replaced")

// withPinned calls open with a path to the directory of the maps. What it opens
// there is of one datapath: it is called again where another took its place
// meanwhile. The error matches pins.ErrNone where nothing is pinned.
func withPinned(dir string, open func(path string) error) error {
	deadline := time.Now().Add(swapPatience)
	for attempt := 1; ; attempt++ {
		err := openOnce(dir, open)
		if !errors.Is(err, errSwapped) || attempt >= swapAttempts && time.Now().After(deadline) {
			return err
		}
		time.Sleep(swapPoll)
	}
}

func openOnce(dir string, open func(path string) error) error {
	path := filepath.Join(dir, MapsDir)
	handle, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		// The new ones may have come, and those of before gone, since a moment ago: in this order.
		for _, name := range []string{oldMapsDir, MapsDir} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return errSwapped
			}
		}
		return fmt.Errorf("%w in %s: start replypath run", pins.ErrNone, dir)
	}
	if err != nil {
		return fmt.Errorf("open the directory of the maps: %w", err)
	}
	defer handle.Close()
	// By its descriptor, which leads to the same directory under whatever name.
	err = open(fmt.Sprintf("/proc/self/fd/%d", handle.Fd()))
	if err != nil && !pins.IsAt(handle, path) {
		return errors.Join(errSwapped, err)
	}
	return err
}

// Settle finishes what a process left that was killed while it put a datapath
// in place: the earlier one counts. Pin removes what that process has pinned aside.
func Settle(dir *pins.Dir) error {
	if !dir.Has(MapsDir) && dir.Has(oldMapsDir) {
		if err := dir.Rename(oldMapsDir, MapsDir); err != nil {
			return err
		}
	}
	return dir.RemoveAtOnce(oldMapsDir)
}

// Pin puts the maps and programs in the place of earlier ones. These stay pinned
// aside until Commit.
func (d *Datapath) Pin() error {
	if err := d.prepare(); err != nil {
		return errors.Join(err, d.dir.RemoveAtOnce(newMapsDir))
	}
	if err := d.dir.Supplant(newMapsDir, MapsDir, oldMapsDir); err != nil {
		return errors.Join(err, Settle(d.dir), d.dir.RemoveAtOnce(newMapsDir))
	}
	d.pinned = true
	return errors.Join(d.enterSender(d.programs.Send), d.enterNobody(d.programs.Fallback))
}

// prepare pins everything aside.
func (d *Datapath) prepare() error {
	if err := d.dir.RemoveAtOnce(newMapsDir); err != nil {
		return err
	}
	_, err := d.pinMissing(newMapsDir)
	return err
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
	pin := func(name string, pin func(path string) error) {
		if err == nil && !d.dir.Has(filepath.Join(in, name)) {
			pinned, err = true, pin(d.dir.Path(in, name))
		}
	}
	pin(layoutName, pinLayout)
	for name, m := range d.all {
		pin(name, func(path string) error { return d.pinMap(name, m, path) })
	}
	for name, program := range d.named() {
		pin(filepath.Join(programsDir, name), func(path string) error { return pinProgram(program, path) })
	}
	return pinned, err
}

// pinMap pins a map at one more path. What was pinned is looked at: nobody else would before it
// takes the place of what was pinned earlier.
func (d *Datapath) pinMap(name string, m *ebpf.Map, path string) error {
	clone, err := m.Clone() // which is pinned nowhere, so that Pin does not move it
	if err != nil {
		return fmt.Errorf("pin map %s: %w", name, err)
	}
	defer bpf.Close(clone)
	if err := clone.Pin(path); err != nil {
		return fmt.Errorf("pin map %s: %w", name, err)
	}
	return d.ids.checkPinned(name, path)
}

// pinProgram pins a program at one more path.
func pinProgram(program *ebpf.Program, path string) error {
	clone, err := program.Clone()
	if err != nil {
		return fmt.Errorf("pin program %s: %w", filepath.Base(path), err)
	}
	defer bpf.Close(clone)
	if err := clone.Pin(path); err != nil {
		return fmt.Errorf("pin program %s: %w", filepath.Base(path), err)
	}
	return nil
}

// Commit forgets what Pin took the place of, so that the kernel can free it.
func (d *Datapath) Commit() error {
	errs := []error{d.dir.RemoveAtOnce(oldMapsDir), d.earlier.Close()}
	closeAll(d.replaced)
	d.earlier = nil
	clear(d.replaced)
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
	if send := d.earlier.program(sendName); send != nil && !d.fresh[bpf.DatapathMapSender] {
		errs = append(errs, d.enterSender(send))
	}
	if end := d.earlier.program(fallbackName); end != nil && !d.fresh[bpf.DatapathMapNobody] {
		errs = append(errs, d.enterNobody(end))
	}
	return errors.Join(append(errs, PutBack(d.dir))...)
}

// PutBack puts the maps and programs that Pin has left aside, if there are any, in
// the place of those that took theirs.
func PutBack(dir *pins.Dir) error {
	if dir.Has(oldMapsDir) {
		if err := dir.Supplant(oldMapsDir, MapsDir, newMapsDir); err != nil {
			return err
		}
	}
	return dir.RemoveAtOnce(newMapsDir)
}

// Aside opens the programs that PutBack puts back, and tells where their maps are.
func Aside(dir *pins.Dir) (programs *Attached, maps string, err error) {
	maps = dir.Path(MapsDir)
	if dir.Has(oldMapsDir) {
		maps = dir.Path(oldMapsDir)
	}
	programs, err = openAttached(filepath.Join(maps, programsDir))
	return programs, maps, err
}

// KeepsAside tells whether what Pin has taken the place of is still pinned.
func (d *Datapath) KeepsAside() bool { return d.dir.Has(filepath.Join(oldMapsDir, programsDir)) }

// enterSender has the egress programs that use our map call this program to end a
// move.
func (d *Datapath) enterSender(send *ebpf.Program) error {
	if err := d.Sender.Put(uint32(0), send); err != nil {
		return fmt.Errorf("enter the program that sends: %w", err)
	}
	return nil
}

// enterNobody has the egress programs that use our map call this program to end what is for nobody.
func (d *Datapath) enterNobody(end *ebpf.Program) error {
	if err := d.Nobody.Put(uint32(0), end); err != nil {
		return fmt.Errorf("enter the program that ends what is for nobody: %w", err)
	}
	return nil
}

// keep pins a program that is loaded later than the others.
func (d *Datapath) keep(name string, program *ebpf.Program) error {
	if !d.pinned {
		return nil // Pin does
	}
	path := d.dir.Path(MapsDir, programsDir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin program %s: %w", name, err)
	}
	return pinProgram(program, path)
}
