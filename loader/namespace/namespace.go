// SPDX-License-Identifier: Apache-2.0

// Package namespace keeps one datapath in a network namespace: two would record each flow twice, and fight for the
// fallback route's device. Who puts one in place holds the lock of the namespace for as long as it lives. What stands
// without a process is found by its journal. Pins on a BPF file system that is not in sight are not found: by clsact the new
// programs take the places of theirs, by TCX both work.
package namespace

import (
	"cmp"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/loader/attach"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/pins"
)

// namingTime is how long a start that is too late waits until it can name the pins of the other
// one, which has begun at the same moment, or until that one has failed.
const namingTime = 2 * time.Second

// Lock locks the network namespace of the calling thread for a datapath that is pinned in dir. Where a stranger has the
// lock, that is logged, and the result is nil, which can be closed as well. An error names the datapath of whoever has it,
// or one that stands without a process.
func Lock(nl *netlink.Handle, dir string, log *slog.Logger) (*pins.NamespaceLock, error) {
	lock, err := await(dir)
	if busy := new(pins.BusyError); errors.As(err, &busy) {
		log.Warn("a process that is not replypath has locked the network namespace: "+
			"a second datapath that begins at this moment is not noticed", "pid", busy.PID)
	} else if err != nil {
		return nil, err
	}
	found, err := Beside(nl, dir)
	if err == nil && len(found) > 0 {
		pid, live := found[0].Live()
		err = &pins.OtherError{Dir: found[0].Shown(), PID: pid, Live: live}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// await returns a *pins.BusyError where the lock is a stranger's, and else an error that names the datapath of whoever has
// it.
func await(dir string) (*pins.NamespaceLock, error) {
	for deadline := time.Now().Add(namingTime); ; {
		lock, err := pins.LockNamespace()
		busy := new(pins.BusyError)
		if !errors.As(err, &busy) || busy.Stranger {
			return lock, err
		}
		if named := nameHolder(dir, busy.PID); named != nil {
			return nil, named
		}
		if time.Now().After(deadline) {
			return nil, &pins.OtherError{PID: busy.PID, Live: true}
		}
	}
}

// nameHolder returns an error that names the pins of the process that holds the namespace, nil where
// they cannot be seen.
func nameHolder(dir string, pid int) error {
	if owned, err := pins.Owned(dir); err == nil && owned {
		return &pins.OwnedError{Dir: dir, PID: pins.OwnerPID(dir)}
	}
	found, err := pins.FindElsewhere(dir)
	if err != nil {
		return err
	}
	for _, e := range found {
		if owner, live := e.Live(); live {
			return &pins.OtherError{Dir: e.Shown(), PID: cmp.Or(pid, owner), Live: true}
		}
	}
	return nil
}

// Beside returns the datapaths of this network namespace that are pinned in other directories.
func Beside(nl *netlink.Handle, dir string) (found []pins.Elsewhere, err error) {
	elsewhere, err := pins.FindElsewhere(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range elsewhere {
		stands, err := stands(nl, &e)
		if err != nil {
			return nil, err
		}
		if stands {
			found = append(found, e)
		}
	}
	return found, nil
}

// stands tells whether pins are of this network namespace. A kernel without cookies gives the number
// of one that is gone to another: what such pins attached is attached here.
func stands(nl *netlink.Handle, e *pins.Elsewhere) (bool, error) {
	if _, live := e.Live(); live || e.Journal.Namespace.Cookie != 0 {
		return true, nil
	}
	attacher := attach.New(filepath.Join(e.Dir, datapath.LinksDir), nl, attach.Auto)
	for _, r := range e.Journal.Interfaces {
		if r.Index == 0 {
			continue
		}
		hooks, err := counters.ReadHooks(attacher, attach.Interface{Index: r.Index, Name: r.Name}, r.Catches)
		if err != nil {
			return false, err
		}
		for _, hook := range hooks {
			if hook.Attached {
				return true, nil
			}
		}
	}
	return false, nil
}
