// SPDX-License-Identifier: Apache-2.0

// Package detach takes a datapath away, or back to what was there before a trial.
package detach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/discover/dump"
	"replypath/loader/kernel"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/source"
)

// Options say what is taken away.
type Options struct {
	PinDir string
	Stop   bool // end the process that owns the directory first
	Log    *slog.Logger
}

// Run takes away everything that was ever put on this host by way of the pin
// directory: programs, pins, the device of the fallback routes, the qdiscs that
// were added, and the changes of sysctls that still hold. It returns what it did,
// one line each, and goes on after errors.
//
// It needs no complete journal and may be repeated. Where nothing is pinned, it
// looks for filters that were left without their pins only, and the error is a
// *pins.ElsewhereError where they may be those of a datapath in another directory.
// While a process owns the directory the error matches pins.ErrOwned, unless Stop says to
// end that one; pins of another network namespace are refused with
// pins.ErrForeignNamespace.
func Run(ctx context.Context, options Options) (removed []string, err error) {
	if _, err := os.Stat(options.PinDir); errors.Is(err, fs.ErrNotExist) {
		return detachStrays(options)
	}
	if err := kernel.CheckRights(); err != nil {
		return nil, err
	}
	// Before a process of another namespace is told to end.
	if _, err := readForDetach(options); err != nil {
		return nil, err
	}
	dir, err := ownToDetach(ctx, options)
	if errors.Is(err, pins.ErrNone) {
		return detachStrays(options)
	}
	if err != nil {
		return nil, err
	}
	journal, err := readForDetach(options)
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	d := &detacher{dir: dir, journal: journal, log: options.Log}
	err = d.run()
	return d.removed, err
}

// detachStrays removes filters of ours whose pins are gone: a filter, unlike a
// link, outlives them.
func detachStrays(options Options) (removed []string, err error) {
	if err := pins.CheckElsewhere(options.PinDir, nil); err != nil {
		return nil, err
	}
	d := &detacher{journal: new(pins.Journal), log: options.Log}
	if err := d.open(filepath.Join(options.PinDir, datapath.LinksDir)); err != nil {
		return nil, err
	}
	defer d.close()
	busy, err := d.ownNamespace()
	if err != nil {
		return nil, err
	}
	if busy != nil {
		return nil, &pins.ElsewhereError{Dir: options.PinDir, PID: busy.PID}
	}
	err = errors.Join(d.fallback(), d.neighbours(), d.programs())
	if len(d.removed) > 0 {
		d.log.Warn("nothing was pinned, so that a changed rp_filter or an added clsact qdisc are not known: look at them")
	}
	return d.removed, err
}

// readForDetach returns the journal if it is of this network namespace. One that
// is not there, or that cannot be read, tells nothing: all that is found is taken for
// what was left, unless it may be that of another directory.
func readForDetach(options Options) (*pins.Journal, error) {
	journal, err := pins.ReadJournal(options.PinDir)
	switch {
	case errors.Is(err, pins.ErrForeignNamespace):
		return nil, err
	case errors.Is(err, pins.ErrNone) || err == nil && journal.Namespace == (pins.Namespace{}):
		return new(pins.Journal), pins.CheckElsewhere(options.PinDir, nil)
	case err != nil:
		options.Log.Warn("what was changed on the host is not known", "error", err)
		return new(pins.Journal), pins.CheckElsewhere(options.PinDir, err)
	}
	return journal, nil
}

func ownToDetach(ctx context.Context, options Options) (*pins.Dir, error) {
	dir, err := pins.OwnExisting(options.PinDir)
	if err == nil || !options.Stop || !errors.Is(err, pins.ErrOwned) {
		return dir, err
	}
	defer Announce(options.PinDir).Close()
	pid, err := pins.EndHolder(ctx, options.PinDir, unix.SIGTERM)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("%w: kill -KILL %d ends one that has stopped or hangs", err, pid)
	}
	if err != nil {
		return nil, err
	}
	return pins.OwnExisting(options.PinDir)
}

func (d *detacher) run() error {
	if err := d.open(d.dir.Path(datapath.LinksDir)); err != nil {
		return errors.Join(err, d.dir.Close())
	}
	defer d.close()
	busy, err := d.ownNamespace()
	if busy != nil {
		err = &pins.OtherError{PID: busy.PID, Live: true}
	}
	if err != nil {
		return errors.Join(err, d.dir.Close())
	}
	d.warn()
	err = errors.Join(d.fallback(), d.neighbours(), d.programs(), d.sourceRepair(), d.qdiscs(), d.sysctls(), d.history())
	if err != nil {
		// The journal is still needed for the next try.
		return errors.Join(err, d.dir.Close())
	}
	if err := d.dir.Remove(datapath.PinNames()...); err != nil {
		return err
	}
	d.done("pins in %s", pins.Shown(d.dir.Path()))
	return nil
}

// ownNamespace keeps others from putting a datapath in place meanwhile. Where one has it already, it returns
// that process.
func (d *detacher) ownNamespace() (busy *pins.BusyError, err error) {
	d.namespace, err = pins.LockNamespace()
	switch {
	case !errors.As(err, &busy):
		return nil, err
	case busy.Stranger:
		return nil, nil
	}
	return busy, nil
}

// neighbours removes the entries with a MAC that nobody has: without the programs frames would leave for it.
func (d *detacher) neighbours() error {
	deleted, err := nexthop.ForgetNobody(d.netlink)
	if deleted > 0 {
		d.done("%d neighbour entries with a mac that nobody has", deleted)
	}
	return err
}

// programs takes ours off every interface: whether or not the journal knows it.
func (d *detacher) programs() error {
	links, err := dump.Links(d.netlink)
	if err != nil {
		return err
	}
	errs := make([]error, 0, len(links))
	for _, link := range links {
		errs = append(errs, d.program(attach.Interface{Index: link.Attrs().Index, Name: link.Attrs().Name}))
	}
	return errors.Join(append(errs, d.leftovers())...)
}

// leftovers removes the pins of interfaces that are gone.
func (d *detacher) leftovers() error {
	links, err := dump.Links(d.netlink)
	if err != nil {
		return err
	}
	return attach.DetachStrays(d.attacher, func(index int) bool {
		return slices.ContainsFunc(links, func(link netlink.Link) bool { return link.Attrs().Index == index })
	})
}

func (d *detacher) program(target attach.Interface) error {
	var attached []string
	for _, direction := range attach.Places {
		mechanism, present, err := d.attacher.Attached(target, direction)
		if err != nil {
			return err
		}
		if present {
			attached = append(attached, fmt.Sprintf("program on %s %s (%s)", target.Name, direction, mechanism))
		}
	}
	if err := d.attacher.Detach(target); err != nil {
		return err
	}
	for _, what := range attached {
		d.done("%s", what)
	}
	return nil
}

func (d *detacher) sourceRepair() error {
	removed, err := source.Detach(d.dir.Path(datapath.LinksDir))
	if removed {
		d.done("programs on cgroup %s (source address of udp answers)", cmp.Or(d.journal.SourceCgroup, "of this host"))
	}
	return err
}

// stateDir is where an earlier version kept a history, which the journal names.
const stateDir = "/var/lib/replypath"

// history removes what that version left, with the directory if nothing else is in it.
func (d *detacher) history() error {
	path := d.journal.History
	if path == "" {
		return nil
	}
	beside, err := filepath.Glob(path + ".new*") // half written; another of an older form stands beside, too
	for _, file := range append(beside, path+".old", path) {
		if removeErr := os.Remove(file); removeErr == nil {
			d.done("history %s", file)
		} else if !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("remove the history: %w", removeErr))
		}
	}
	if dir := filepath.Dir(path); dir == stateDir {
		_ = os.Remove(dir)
	}
	return err
}

func (d *detacher) qdiscs() error {
	var errs []error
	for _, r := range d.journal.Qdiscs {
		errs = append(errs, d.qdisc(r))
	}
	return errors.Join(errs...)
}

// qdisc removes a qdisc that we added, unless somebody uses it.
func (d *detacher) qdisc(r pins.QdiscRecord) error {
	name, err := d.identities(d.journal).NameOf(r.Interface, r.Name)
	if name == "" || err != nil {
		return err
	}
	target := attach.Interface{Index: r.Interface, Name: name}
	lacked, err := d.attacher.LacksQdisc(target)
	if err != nil || lacked {
		return err
	}
	if err := d.attacher.RemoveQdisc(target); err != nil {
		return err
	}
	lacks, err := d.attacher.LacksQdisc(target)
	switch {
	case err != nil:
		return err
	case lacks:
		d.done("qdisc clsact on %s", target.Name)
	default:
		d.log.Info("qdisc is left, as it has filters of others", "interface", target.Name)
	}
	return nil
}

// sysctls puts them back in the reverse order of their changes, on which some depend (loader/gateways/asking.go).
func (d *detacher) sysctls() error {
	var errs []error
	for _, r := range slices.Backward(d.journal.Sysctls) {
		restored, err := d.identities(d.journal).Restore(r)
		errs = append(errs, err)
		if restored != nil {
			d.done("change of sysctl %s, which is %s again", restored.Key, restored.Before)
		}
	}
	return errors.Join(errs...)
}
