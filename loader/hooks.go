package loader

import (
	"github.com/cilium/ebpf"

	"replypath/loader/attach"
)

// attacher is what is asked of an attach.Attacher. In tests it may refuse.
type attacher interface {
	Attach(attach.Interface, attach.Programs) (attach.Result, error)
	Replace(attach.Interface, attach.Direction, *ebpf.Program) (bool, error)
	Attached(attach.Interface, attach.Direction) (attach.Mechanism, bool, error)
	Detach(attach.Interface) error
	DetachFrom(attach.Interface, attach.Direction) error
	Pinned() ([]int, error)
	LacksQdisc(attach.Interface) (bool, error)
	RemoveQdisc(attach.Interface) error
}
