// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// PinnedLink is a link that keeps a program attached to one place, and is pinned.
type PinnedLink struct {
	Path  string
	Place string // for errors: "eth1 ingress"
	// IsThere tells whether a link leads to that place, and not to one that is gone or another's by now.
	IsThere func(*link.Info) (bool, error)
}

// Put puts a program in the place of the one that is attached, or attaches it; fresh: none was. A link whose place is gone cannot
// be updated: its pin is dropped.
func (p *PinnedLink) Put(program *ebpf.Program, attach func() (link.Link, error)) (fresh bool, err error) {
	replaced := false
	err = p.open(func(l link.Link) error {
		isThere, err := p.isThere(l)
		if err == nil && isThere {
			err = l.Update(program)
		}
		if err == nil && !isThere || errors.Is(err, unix.ENOLINK) {
			return os.Remove(p.Path)
		}
		replaced = true
		return err
	})
	if replaced || err != nil {
		return false, p.wrap("replace program", err)
	}
	l, err := attach()
	if err != nil {
		return false, p.wrap("attach", err)
	}
	defer bpf.Close(l)
	return true, p.wrap("pin link", l.Pin(p.Path))
}

// IsAttached tells whether a program is attached to the place.
func (p *PinnedLink) IsAttached() (attached bool, err error) {
	err = p.open(func(l link.Link) (err error) {
		attached, err = p.isThere(l)
		return err
	})
	return attached, p.wrap("look at the pinned link", err)
}

// Remove detaches and unpins, and tells whether there was a link. Detaching comes first: a reader may hold the
// link open for a moment, and until then it would stay attached.
func (p *PinnedLink) Remove() (removed bool, err error) {
	err = p.open(func(l link.Link) error {
		removed = true
		// A link whose place is gone is detached already.
		if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		if err := os.Remove(p.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	return removed, p.wrap("detach", err)
}

// open opens the link for do, which is not called where none is pinned.
func (p *PinnedLink) open(do func(link.Link) error) error {
	l, err := link.LoadPinnedLink(p.Path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer bpf.Close(l)
	return do(l)
}

func (p *PinnedLink) isThere(l link.Link) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	return p.IsThere(info)
}

func (p *PinnedLink) wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s on %s: %w", doing, p.Place, err)
}
