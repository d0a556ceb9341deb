// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"replypath/loader/attach"
	"replypath/loader/pins"
)

// Errors that callers tell apart. They are matched with errors.Is.
var (
	// ErrNotAttached says that the pin directory holds no datapath.
	ErrNotAttached = pins.ErrNone
	// ErrOwned says that a live process owns the pin directory; errors.As
	// with *pins.OwnedError tells its process ID.
	ErrOwned = pins.ErrOwned
	// ErrForeignNamespace says that the pins work for another network namespace.
	ErrForeignNamespace = pins.ErrForeignNamespace
	// ErrUnsupported says that the kernel lacks a needed feature, or the
	// process a needed capability. The message names the remedy.
	ErrUnsupported = attach.ErrUnsupported
)
