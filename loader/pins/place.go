package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// CheckPlace returns an error where this process could not pin into a directory, which need not exist. It
// matches ErrNoBPFFS, ErrForeignContents, fs.ErrPermission or unix.EROFS.
func CheckPlace(path string) error {
	place, exists := path, true
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		place, exists = existingParent(path), false
	} else if err != nil {
		return fmt.Errorf("look at the pin directory: %w", err)
	}
	if err := checkFileSystem(place); err != nil {
		return err
	}
	if err := unix.Access(place, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("pin into %s: %w", shown(place), err)
	}
	if !exists {
		return nil
	}
	if !isOurs(path) {
		return fmt.Errorf("%s: %w", shown(path), ErrForeignContents)
	}
	return checkOwner(path, info)
}
