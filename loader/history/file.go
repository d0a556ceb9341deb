// SPDX-License-Identifier: Apache-2.0

package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"replypath/loader/pins"
)

// DefaultDir is where histories are kept, as StateDirectory=replypath makes it.
const DefaultDir = "/var/lib/replypath"

// Path is the file of a pin directory's history.
func Path(stateDir, pinDir string) string {
	name := "history"
	if pinDir != pins.DefaultDir {
		name += strings.ReplaceAll(filepath.Clean(pinDir), "/", "-")
	}
	return filepath.Join(stateDir, name+".json")
}

// document is what a file has.
type document struct {
	Version  int       `json:"version"`
	Since    time.Time `json:"since"`
	Gathered time.Time `json:"gathered"`
	Rows     []Row     `json:"rows"`
}

// version of the files.
const version = 1

// ErrFile is what it is for a file to be no history of this version.
var ErrFile = errors.New("not a history that this version reads")

// Load reads a file. Without one the history is empty, and with an error as well, which matches ErrFile where the file
// is of another form.
func Load(path string) (*History, error) {
	h := New()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("read the history: %w", err)
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil || d.Version != version {
		return h, fmt.Errorf("%s: %w", path, ErrFile)
	}
	h.Since, h.Gathered, h.loaded = d.Since, d.Gathered, true
	for _, r := range d.Rows[:min(len(d.Rows), MostRows)] {
		h.rows[r.Key] = &row{Row: r}
	}
	return h, nil
}

// Save replaces a file as a whole. Its directory is made where it does not exist, for root alone.
func (h *History) Save(path string) error {
	text, err := json.Marshal(document{version, h.Since, h.Gathered, h.List(time.Time{})})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = replace(path, text)
	}
	if err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	return nil
}

// replace writes beside a file first, so that no end of the process leaves half of it.
func replace(path string, text []byte) error {
	beside := path + ".new"
	if err := os.WriteFile(beside, text, 0o600); err != nil {
		return errors.Join(err, os.Remove(beside))
	}
	return os.Rename(beside, path)
}
