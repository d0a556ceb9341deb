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

// Hook is a place where a program belongs.
type Hook struct {
	Name      string // "ingress" or "egress"
	Mechanism string // "tcx" or "clsact"; empty where nothing is attached
	Attached  bool
}

// missingHooks are those of an interface that does not exist.
func missingHooks() []Hook {
	hooks := make([]Hook, len(attach.Directions))
	for i, direction := range attach.Directions {
		hooks[i].Name = string(direction)
	}
	return hooks
}

// readHooks looks at what is attached to an interface, ingress first.
func readHooks(attacher attacher, target attach.Interface) ([]Hook, error) {
	var hooks []Hook
	for _, direction := range attach.Directions {
		mechanism, attached, err := attacher.Attached(target, direction)
		if err != nil {
			return nil, err
		}
		hooks = append(hooks, Hook{Name: string(direction), Mechanism: string(mechanism), Attached: attached})
	}
	return hooks, nil
}
