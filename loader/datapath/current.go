// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"replypath/bpf"
	"replypath/loader/pins"
)

// Current opens the maps of the datapath that is in place, and those of another
// that has taken its place since, as a start of the daemon may. It is for who looks
// again and again, and is not safe for concurrent use.
type Current struct {
	pinDir string
	opened *os.File // the directory of the maps
	maps   *bpf.DatapathMaps
}

// OpenCurrent opens the maps that are pinned in the directory now. The error matches
// pins.ErrNone where there are none.
func OpenCurrent(pinDir string) (*Current, error) {
	c := &Current{pinDir: pinDir}
	if _, err := c.Maps(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Maps returns the maps, which are closed by the next call or by Close.
func (c *Current) Maps() (*bpf.DatapathMaps, error) {
	path := filepath.Join(c.pinDir, MapsDir)
	if c.opened != nil && c.maps != nil && pins.IsAt(c.opened, path) {
		return c.maps, nil
	}
	if err := c.Close(); err != nil {
		return nil, err
	}
	opened, err := os.Open(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the directory of the maps: %w", err)
	}
	if err == nil {
		c.opened = opened
	}
	c.maps, err = OpenMaps(c.pinDir)
	return c.maps, err
}

// Close closes what is open; it may be called twice.
func (c *Current) Close() error {
	var errs []error
	if c.maps != nil {
		errs = append(errs, c.maps.Close())
	}
	if c.opened != nil {
		errs = append(errs, c.opened.Close())
	}
	c.maps, c.opened = nil, nil
	return errors.Join(errs...)
}
