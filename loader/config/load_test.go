// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"replypath/test/await"
)

func TestLoadFailures(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	await.Must(t, os.WriteFile(large, bytes.Repeat([]byte("#"), maxFileSize+1), 0o600))
	for _, test := range []struct {
		path, message string
		cause         error
	}{
		{filepath.Join(dir, "none.yaml"), "there is no such file: create it, an empty one will do", fs.ErrNotExist},
		{dir, "cannot be read (is a directory): name a configuration file", nil},
		{large, "is larger than 1048576 bytes: name a configuration file", nil},
		{large + "/x", "cannot be read (not a directory): name a configuration file", nil},
	} {
		_, err := Load(test.path)
		if err == nil || err.Error() != test.path+": "+test.message {
			t.Errorf("got %v\nwant %s: %s", err, test.path, test.message)
			continue
		}
		checkError(t, err)
		if test.cause != nil && !errors.Is(err, test.cause) {
			t.Errorf("%v does not match %v", err, test.cause)
		}
	}
}
