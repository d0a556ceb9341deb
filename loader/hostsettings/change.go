// SPDX-License-Identifier: Apache-2.0

package hostsettings

import (
	"errors"
	"fmt"
	"io/fs"
)

// Change is a sysctl that was changed, or is about to be.
type Change struct {
	// Interface is the index of the interface that the sysctl belongs to, as
	// names change hands; 0 where it belongs to none.
	Interface int
	// Key is the sysctl's name for sysctl(8): "net.ipv4.conf.eth1.rp_filter". A
	// dot in the name of the interface is written as a slash.
	Key string
	// Before and After are its values as text.
	Before, After string
}

// On returns the same change of another interface, or by the name that it has got.
func (c Change) On(name string) Change {
	c.Key = settingOf(c.Key).ofInterface(name).key()
	return c
}

// Undo returns the command that puts the sysctl back by hand.
func (c Change) Undo() string { return fmt.Sprintf("sysctl -w %s=%s", c.Key, c.Before) }

// Make makes the change.
func (c Change) Make() error { return settingOf(c.Key).write(c.After) }

// Restore puts a sysctl back by the name in Key: who knows that its interface has
// got another says so by On. It tells whether it did: not when the value is no
// longer the one that was written, as somebody else has decided then, and not when
// the interface has gone; neither is an error.
func Restore(c Change) (bool, error) {
	s := settingOf(c.Key)
	value, err := s.read()
	if err == nil && value == c.After {
		err = s.write(c.Before)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && value == c.After, err
}
