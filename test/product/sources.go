// SPDX-License-Identifier: Apache-2.0

package product

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
)

// sources are the packages that the binary is built from, seen from a test package of this directory.
var sources = []string{"../../bpf", "../../cmd", "../../loader", "../../metrics"}

// noteSources looks at every file that the binary under test is built from, so that the go command does not take the
// tests' last result for the present one when only those have changed: it caches by the files that a test opens.
var noteSources = sync.OnceValue(func() error {
	var errs []error
	for _, dir := range sources {
		errs = append(errs, filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // a binary from elsewhere is tested, or somebody is at work
			}
			return err
		}))
	}
	return errors.Join(errs...)
})
