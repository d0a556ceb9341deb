// SPDX-License-Identifier: Apache-2.0

package product

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"replypath/test/await"
)

// notices is a service manager's end of sd_notify(3).
type notices struct {
	path   string
	states chan string
}

// listenForNotices opens a socket for NOTIFY_SOCKET. It has a path, because an abstract name is known in one network
// namespace only. The first READY=1 says that the start is done.
func listenForNotices(t testing.TB, started func()) *notices {
	t.Helper()
	// Short, because a socket's path is: the test's own directory may be deep.
	dir := await.Must1[string](t)(os.MkdirTemp("", "notify-"))
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &notices{path: filepath.Join(dir, "socket"), states: make(chan string, 64)}
	conn := await.Must1[*net.UnixConn](t)(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"}))
	t.Cleanup(func() { conn.Close() })
	go n.receive(conn, started)
	return n
}

func (n *notices) receive(conn *net.UnixConn, started func()) {
	buffer := make([]byte, 4096)
	for {
		length, err := conn.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		for line := range strings.Lines(string(buffer[:length])) {
			state := strings.TrimSpace(line)
			if state == "READY=1" {
				started()
			}
			n.states <- state
		}
	}
}
