// SPDX-License-Identifier: Apache-2.0

package guide

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"replypath/test/await"
)

// picturesVariable names the directory to which TestPictures writes what terminals were sent.
const picturesVariable = "REPLYPATH_PICTURES"

// TestPictures runs commands of the guide in terminals, for make docs-pictures. pictures.py draws what they sent.
func TestPictures(t *testing.T) {
	dir := os.Getenv(picturesVariable)
	if dir == "" {
		t.Skip("make docs-pictures runs it")
	}
	h := newInstalled(t)
	h.restart("")
	build := exec.CommandContext(await.Within(t, await.StartTime), "go", "build", "-o", h.m.Shared("replypath-demo"), "replypath/cmd/replypath-demo")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the demo: %v\n%s", err, output)
	}
	h.record(dir, "demo", tall, "/run/test/replypath-demo -replypath /usr/bin/replypath", nil)
	h.record(dir, "status", tall, "replypath status", nil)
	h.record(dir, "top", low, "replypath top", rates)
	h.strict()
	h.typed("ip route add default via 10.4.0.1 dev eth1 table 100\nip rule add pref 100 from 10.4.0.100 lookup 100", "", 0)
	h.restart("manage_rp_filter: false\n")
	h.record(dir, "doctor", tall, "replypath doctor || true", nil)
}

// tall has room for all that a command prints; low is what top fills.
const tall, low = 100, 16

// record runs a command in a terminal, and keeps what it sends there. until tells when it has sent enough; without it
// the command ends by itself.
func (h *host) record(dir, name string, rows int, command string, until func(sent []byte) error) {
	h.t.Helper()
	typed := fmt.Sprintf("env -u COLUMNS script --quiet --return --command 'stty rows %d cols 120; TERM=xterm-256color %s' /dev/null", rows, command)
	c := h.command(await.Within(h.t, limit), typed)
	keyboard := await.Must1[io.WriteCloser](h.t)(c.StdinPipe())
	defer keyboard.Close()
	screen := await.Must1[io.ReadCloser](h.t)(c.StdoutPipe())
	await.Must(h.t, c.Start())
	var sent bytes.Buffer
	buffer := make([]byte, 4096)
	for until == nil || until(sent.Bytes()) != nil {
		n, err := screen.Read(buffer)
		sent.Write(buffer[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		await.Must(h.t, err)
	}
	await.Must(h.t, os.WriteFile(filepath.Join(dir, name+".terminal"), sent.Bytes(), 0o644))
	_, _ = io.WriteString(keyboard, "\x03") // where the program goes on: Ctrl-C
	_, _ = io.Copy(io.Discard, screen)
	await.Must(h.t, c.Wait())
}

// rate is one in top's row of eth1.
var rate = regexp.MustCompile(`eth1 .*[0-9] k?pps`)

// rates returns an error until top has shown some, which takes two looks.
func rates(sent []byte) error {
	if !rate.Match(sent) {
		return fmt.Errorf("no rate in %d bytes", len(sent))
	}
	return nil
}
