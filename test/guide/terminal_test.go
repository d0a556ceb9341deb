// SPDX-License-Identifier: Apache-2.0

package guide

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
)

// terminal is where a program goes on while the reader types elsewhere.
type terminal struct {
	*product.Program
	h        *host
	command  string
	keyboard *os.File
}

// open starts a program in a terminal of its own, and returns when a line of it contains some words.
func (h *host) open(command, until string) *terminal {
	h.t.Helper()
	c := h.command(context.Background(), "exec "+command)
	reader, writer, err := os.Pipe()
	await.Must(h.t, err)
	c.Stdin = reader
	h.t.Cleanup(func() {
		reader.Close()
		writer.Close()
	})
	t := &terminal{Program: product.StartProgram(h.t, c, unix.SIGKILL), h: h, command: command, keyboard: writer}
	t.WaitLog(1, until)
	return t
}

// interrupt presses Ctrl-C.
func (t *terminal) interrupt() {
	t.h.t.Helper()
	// nsenter has forked, as the program is in another namespace of processes.
	path := fmt.Sprintf("/proc/%d/task/%[1]d/children", t.PID())
	children := strings.Fields(string(await.Must1[[]byte](t.h.t)(os.ReadFile(path))))
	for _, child := range children {
		await.Must(t.h.t, unix.Kill(await.Must1[int](t.h.t)(strconv.Atoi(child)), unix.SIGINT))
	}
}

// closeOthers presses Ctrl-C in each terminal in which a program goes on.
func (h *host) closeOthers() {
	h.t.Helper()
	for _, t := range h.others {
		t.interrupt()
	}
	h.wantOthersEnd()
}

// wantOthersEnd wants the programs in the other terminals to end with success.
func (h *host) wantOthersEnd() {
	h.t.Helper()
	for _, t := range h.others {
		t.WantEnd(0)
	}
	h.others = nil
}
