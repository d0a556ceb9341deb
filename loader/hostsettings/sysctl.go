// SPDX-License-Identifier: Apache-2.0

package hostsettings

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// setting is the path of a sysctl below /proc/sys. An interface's name in it is
// one element, dots and all.
type setting string

// swap exchanges the separators of paths and keys as sysctl(8) does, so that
// the rp_filter of eth0.100 is net.ipv4.conf.eth0/100.rp_filter.
var swap = strings.NewReplacer(".", "/", "/", ".")

// settingOf returns the setting with a key of sysctl(8).
func settingOf(key string) setting { return setting(swap.Replace(key)) }

// key returns the name that sysctl(8) has for the setting.
func (s setting) key() string { return swap.Replace(string(s)) }

// file is looked up in the network namespace of the calling thread.
func (s setting) file() string { return path.Join("/proc/sys", string(s)) }

// ofInterface returns the same setting of another interface.
func (s setting) ofInterface(name string) setting {
	interfaces, leaf := path.Dir(path.Dir(string(s))), path.Base(string(s))
	return setting(path.Join(interfaces, name, leaf))
}

func (s setting) read() (string, error) {
	value, err := os.ReadFile(s.file())
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", s.key(), err)
	}
	return strings.TrimSpace(string(value)), nil
}

func (s setting) readNumber() (int, error) {
	text, err := s.read()
	if err != nil {
		return 0, err
	}
	value, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("read sysctl %s: %w", s.key(), err)
	}
	return value, nil
}

func (s setting) write(value string) error {
	err := writeFile(s.file(), value)
	if err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", s.key(), value, err)
	}
	return nil
}

// CheckWritable returns an error that matches unix.EROFS where no sysctl of the network can be changed, as in a container
// that only reads /proc/sys.
func CheckWritable() error {
	const dir = "/proc/sys/net"
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if fs.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("change sysctls: %s: %w: mount it so that it can be written", dir, unix.EROFS)
	}
	return nil
}

// writeFile writes to a file that has to be there.
func writeFile(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}
