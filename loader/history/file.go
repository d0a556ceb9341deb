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

// Path is the file of a pin directory's history, another one for each.
func Path(stateDir, pinDir string) string {
	name := "history"
	if pinDir != pins.DefaultDir {
		name += strings.NewReplacer("_", "__", "-", "_-", "/", "-").Replace(filepath.Clean(pinDir))
	}
	return filepath.Join(stateDir, name+".json")
}

// document is what a file has.
type document struct {
	Version    int           `json:"version"`
	Since      time.Time     `json:"since"`
	Gathered   time.Time     `json:"gathered"`
	Watched    time.Duration `json:"watched"` // in nanoseconds
	Incomplete bool          `json:"incomplete"`
	Rows       []Row         `json:"rows"`
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
	h.Since, h.Gathered, h.Watched, h.Incomplete, h.loaded = d.Since, d.Gathered, d.Watched, d.Incomplete, true
	for _, r := range d.Rows[:min(len(d.Rows), MostRows)] {
		h.rows[r.Key] = &row{Row: r}
	}
	return h, nil
}

// Save replaces a file as a whole. Its directory is made where it does not exist, for root alone.
func (h *History) Save(path string) error {
	text, err := json.Marshal(document{version, h.Since, h.Gathered, h.Watched, h.Incomplete, h.List(time.Time{})})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = replace(path, text)
	}
	if err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	h.changed = false
	return nil
}

// replace writes beside a file first, so that neither the end of the process nor that of the power leaves half of it.
func replace(path string, text []byte) error {
	beside, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+temporary)
	if err != nil {
		return err
	}
	_, err = beside.Write(text)
	if err == nil {
		err = beside.Sync()
	}
	err = errors.Join(err, beside.Close())
	if err == nil {
		err = os.Rename(beside.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(beside.Name()))
	}
	return nil
}

// What stands beside a file: what is being written, and what an earlier version could not read.
const (
	temporary = ".new*"
	unread    = ".old"
)

// SetAside renames a file that is of another form.
func SetAside(path string) error { return os.Rename(path, path+unread) }

// Remove removes a file and what stands beside it, and tells whether there was one.
func Remove(path string) (removed bool, _ error) {
	beside, err := filepath.Glob(path + temporary)
	for _, file := range append(beside, path+unread, path) {
		switch err2 := os.Remove(file); {
		case err2 == nil:
			removed = true
		case !errors.Is(err2, fs.ErrNotExist):
			err = errors.Join(err, err2)
		}
	}
	if err != nil {
		return removed, fmt.Errorf("remove the history: %w", err)
	}
	return removed, nil
}
