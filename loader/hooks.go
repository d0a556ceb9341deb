package loader

import "replypath/loader/attach"

// Hook is a place where a program belongs.
type Hook struct {
	Name      string // "ingress" or "egress"
	Mechanism string // "tcx" or "clsact"; empty where nothing is attached
	Attached  bool
}

// readHooks looks at what is attached to an interface, ingress first.
func readHooks(attacher *attach.Attacher, target attach.Interface) ([]Hook, error) {
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
