package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// maxFileSize bounds what Load reads, for whoever names the wrong file.
const maxFileSize = 1 << 20

// Load reads a configuration file. Every error is an *Error; one about a file
// that is not there also matches fs.ErrNotExist.
func Load(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, &Error{File: path, Message: reason(err), Err: err}
	}
	return Parse(path, data)
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("is larger than %d bytes: name a configuration file", maxFileSize)
	}
	return data, err
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
