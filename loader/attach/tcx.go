// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

func (a *Attacher) pinPath(iface Interface, direction Direction) string {
	return filepath.Join(a.dir, fmt.Sprintf("%d-%s", iface.Index, direction))
}

func attachType(direction Direction) ebpf.AttachType {
	if direction == Ingress {
		return ebpf.AttachTCXIngress
	}
	return ebpf.AttachTCXEgress
}

// Ours comes first at ingress, to see what others may drop or redirect, and last
// at egress, to see where the packet really goes.
func anchor(direction Direction) link.Anchor {
	if direction == Ingress {
		return link.Head()
	}
	return link.Tail()
}

func (a *Attacher) attachTCX(iface Interface, programs Programs) (Result, error) {
	fresh, err := attachEach(iface, programs, a.attachLink, a.removeLink)
	if err != nil {
		return Result{}, err
	}
	return Result{Mechanism: TCX, New: fresh}, nil
}

// attachLink updates the pinned link in place, or makes a new one. A link whose
// interface is gone cannot be updated: its pin is dropped.
func (a *Attacher) attachLink(iface Interface, direction Direction, program *ebpf.Program) (fresh bool, err error) {
	err = a.updateLink(iface, direction, program)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: iface.Index, Program: program, Attach: attachType(direction), Anchor: anchor(direction),
	})
	if err != nil {
		return false, wrap(err, iface, direction, "attach")
	}
	defer bpf.Close(l)
	if err := l.Pin(a.pinPath(iface, direction)); err != nil {
		return false, wrap(err, iface, direction, "pin link")
	}
	return true, nil
}

// updateLink returns an error that matches fs.ErrNotExist where there is no link
// on this interface, or only a defunct one.
func (a *Attacher) updateLink(iface Interface, direction Direction, program *ebpf.Program) error {
	path := a.pinPath(iface, direction)
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return wrap(err, iface, direction, "open pinned link")
	}
	defer bpf.Close(l)
	index, err := linkInterface(l)
	if err != nil {
		return wrap(err, iface, direction, "look at the pinned link")
	}
	if index == iface.Index {
		err = l.Update(program)
	}
	if index != iface.Index || errors.Is(err, unix.ENOLINK) {
		if err := os.Remove(path); err != nil {
			return wrap(err, iface, direction, "drop defunct link")
		}
		return wrap(fs.ErrNotExist, iface, direction, "link is defunct")
	}
	if err != nil {
		return wrap(err, iface, direction, "replace program")
	}
	return nil
}

// linkInterface returns the interface that a TCX link is attached to, 0 once
// that interface is gone.
func linkInterface(l link.Link) (int, error) {
	info, err := l.Info()
	if err != nil {
		return 0, err
	}
	tcx := info.TCX()
	if tcx == nil {
		return 0, fmt.Errorf("it is a link of type %v, not tcx", info.Type)
	}
	return int(tcx.Ifindex), nil
}

func (a *Attacher) tcxAttached(iface Interface, direction Direction) (bool, error) {
	l, err := link.LoadPinnedLink(a.pinPath(iface, direction), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, wrap(err, iface, direction, "open pinned link")
	}
	defer bpf.Close(l)
	index, err := linkInterface(l)
	if err != nil {
		return false, wrap(err, iface, direction, "look at the pinned link")
	}
	return index == iface.Index, nil
}

func (a *Attacher) detachTCX(iface Interface) error { return removeEach(iface, a.removeLink) }

// removeLink detaches and unpins. Detaching comes first: a reader may hold the
// link open for a moment, and until then it would stay attached.
func (a *Attacher) removeLink(iface Interface, direction Direction) error {
	path := a.pinPath(iface, direction)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return wrap(err, iface, direction, "open pinned link")
	}
	defer bpf.Close(l)
	// A link whose interface is gone is detached already.
	if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) && !errors.Is(err, unix.ENODEV) {
		return wrap(err, iface, direction, "detach")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return wrap(err, iface, direction, "unpin link")
	}
	return nil
}

// Pinned returns the indices of the interfaces that have a pinned link, in no
// particular order.
func (a *Attacher) Pinned() ([]int, error) {
	entries, err := os.ReadDir(a.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pinned links: %w", err)
	}
	var indices []int
	for _, entry := range entries {
		text, _, _ := strings.Cut(entry.Name(), "-")
		index, err := strconv.Atoi(text)
		if err == nil && !slices.Contains(indices, index) {
			indices = append(indices, index)
		}
	}
	return indices, nil
}
