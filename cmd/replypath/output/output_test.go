// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"os"
	"testing"

	"replypath/test/await"
)

// A file and a buffer are no terminals.
func TestIsTerminal(t *testing.T) {
	file := await.Must1[*os.File](t)(os.Create(t.TempDir() + "/out"))
	defer file.Close()
	if IsTerminal(file) || IsTerminal(new(bytes.Buffer)) {
		t.Error("a file or a buffer is taken for a terminal")
	}
	terminal := await.Must1[*os.File](t)(os.Open("/dev/ptmx"))
	defer terminal.Close()
	if !IsTerminal(terminal) {
		t.Error("a terminal is not taken for one")
	}
}
