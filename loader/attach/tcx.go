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
)

// link is the one of a place. The interface that it is attached to is 0 once that is gone.
func (a *Attacher) link(iface Interface, direction Direction) *PinnedLink {
	return &PinnedLink{
		Path:  filepath.Join(a.dir, fmt.Sprintf("%d-%s", iface.Index, direction)),
		Place: fmt.Sprintf("%s %s", iface.Name, direction),
		IsThere: func(info *link.Info) (bool, error) {
			tcx := info.TCX()
			if tcx == nil {
				return false, fmt.Errorf("it is a link of type %v, not tcx", info.Type)
			}
			return int(tcx.Ifindex) == iface.Index, nil
		},
	}
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

// attachLink updates the pinned link in place, or makes a new one.
func (a *Attacher) attachLink(iface Interface, direction Direction, program *ebpf.Program) (fresh bool, err error) {
	return a.link(iface, direction).Put(program, func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{
			Interface: iface.Index, Program: program, Attach: attachType(direction), Anchor: anchor(direction),
		})
	})
}

func (a *Attacher) detachTCX(iface Interface) error { return removeEach(iface, a.removeLink) }

func (a *Attacher) removeLink(iface Interface, direction Direction) error {
	_, err := a.link(iface, direction).Remove()
	return err
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
