// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"os"
	"testing"
)

// A file and a buffer are no terminals.
func TestIsTerminal(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if IsTerminal(file) || IsTerminal(new(bytes.Buffer)) {
		t.Error("a file or a buffer is taken for a terminal")
	}
	terminal, err := os.Open("/dev/ptmx")
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if !IsTerminal(terminal) {
		t.Error("a terminal is not taken for one")
	}
}
