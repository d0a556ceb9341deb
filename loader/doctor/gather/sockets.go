package gather

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/sockets"
)

// udpSockets lists the UDP sockets of the namespace. A kernel without udp_diag has
// none to show.
func udpSockets(h *snapshot.Host) error {
	var inodes []uint32
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := sockets.All(unix.IPPROTO_UDP, family)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list udp sockets: %w", err)
		}
		for _, s := range list {
			h.Sockets = append(h.Sockets, newSocket(&s))
			inodes = append(inodes, s.Inode)
		}
	}
	nameSockets(h, inodes)
	return nil
}

func newSocket(s *sockets.Socket) snapshot.Socket {
	socket := snapshot.Socket{Local: s.Local}
	if s.Remote.Port() != 0 {
		socket.Remote = s.Remote
	}
	return socket
}

// nameSockets finds out who has a connected socket open that is going to be
// named. A process that cannot be looked at, or that ends meanwhile, is not.
func nameSockets(h *snapshot.Host, inodes []uint32) {
	asked, wanted := h.Datagrams(), map[string]*snapshot.Socket{}
	for n := range h.Sockets {
		if s := &h.Sockets[n]; asked.Elsewhere(s) != nil || asked.IsSuspicious(s) {
			wanted[fmt.Sprintf("socket:[%d]", inodes[n])] = s
		}
	}
	if len(wanted) == 0 {
		return
	}
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return // only a malformed pattern is an error
	}
	for _, file := range files {
		target, err := os.Readlink(file)
		if err != nil {
			continue
		}
		if s := wanted[target]; s != nil && s.Process == "" {
			name, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(file)), "comm"))
			s.Process = strings.TrimSpace(string(name))
		}
	}
}
