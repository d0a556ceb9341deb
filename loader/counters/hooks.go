// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"replypath/loader/attach"
	"replypath/metrics"
)

// MissingHooks are those of an interface that does not exist.
func MissingHooks() []metrics.Hook {
	hooks := make([]metrics.Hook, len(attach.Directions))
	for i, direction := range attach.Directions {
		hooks[i].Name = string(direction)
	}
	return hooks
}

// ReadHooks looks at what is attached to an interface, which may be one that only catches replies, ingress first.
func ReadHooks(attacher attach.Means, target attach.Interface, catches bool) ([]metrics.Hook, error) {
	var hooks []metrics.Hook
	for _, direction := range attach.Hooks(catches) {
		mechanism, attached, err := attacher.Attached(target, direction)
		if err != nil {
			return nil, err
		}
		hooks = append(hooks, metrics.Hook{Name: string(direction), Mechanism: string(mechanism), Attached: attached})
	}
	return hooks, nil
}
