// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// newNamespace makes a network namespace that only the returned descriptor holds. The calling thread stays where it
// was.
func newNamespace() (netns.NsHandle, error) {
	created := netns.None()
	err := preserveNamespace(func() error {
		var err error
		created, err = netns.New()
		return err
	})
	if err != nil {
		if created.IsOpen() {
			err = errors.Join(err, created.Close())
		}
		return netns.None(), fmt.Errorf("make a network namespace: %w", err)
	}
	return created, nil
}

// inNamespace runs fn on a thread that is in the network namespace.
func inNamespace(handle netns.NsHandle, fn func() error) error {
	return preserveNamespace(func() error {
		if err := netns.Set(handle); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return fn()
	})
}

// preserveNamespace runs fn, which may change the network namespace of its thread, and puts the thread back afterwards,
// also when fn panics or ends its goroutine.
func preserveNamespace(fn func() error) (err error) {
	runtime.LockOSThread()
	origin, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the network namespace of this thread: %w", err)
	}
	defer func() {
		restored := netns.Set(origin)
		err = errors.Join(err, origin.Close())
		if restored != nil {
			// The thread stays locked: it must not serve another goroutine.
			err = errors.Join(err, fmt.Errorf("return to the network namespace of this thread: %w", restored))
			return
		}
		runtime.UnlockOSThread()
	}()
	return fn()
}
