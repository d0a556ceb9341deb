// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxFileSize bounds what Load reads, for whoever names the wrong file.
const maxFileSize = 1 << 20

// Load reads a configuration file, as Parse does. An error about a file that is not there also
// matches fs.ErrNotExist.
func Load(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, &Error{File: path, Message: reason(err), Err: err}
	}
	return Parse(path, data)
}

// errNotRegular says that a file is a pipe, a socket or a device, but for /dev/null, which is empty: one may never
// end, another never begin.
var errNotRegular = errors.New("is not a regular file: name a configuration file")

func readFile(path string) ([]byte, error) {
	// Before it is opened: to open some devices does something.
	if info, err := os.Stat(path); err == nil && !mayBeRead(info) {
		return nil, errNotRegular
	}
	// Not to wait for the other end of a pipe that has come since.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && !mayBeRead(info) {
		return nil, errNotRegular
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("is larger than %d bytes: name a configuration file", maxFileSize)
	}
	return data, err
}

// mayBeRead tells whether reading ends, be it with an error.
func mayBeRead(info fs.FileInfo) bool {
	null, err := os.Stat(os.DevNull)
	return info.Mode().IsRegular() || info.IsDir() || err == nil && os.SameFile(info, null)
}

// reason words an error of the file system without the path, which Error has.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such file: create it, an empty one will do"
	case errors.Is(err, fs.ErrPermission):
		return "may not be read: make it readable or run as root"
	}
	if info := new(fs.PathError); errors.As(err, &info) {
		return fmt.Sprintf("cannot be read (%v): name a configuration file", info.Err)
	}
	return err.Error()
}
