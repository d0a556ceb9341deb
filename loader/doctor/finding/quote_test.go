// SPDX-License-Identifier: Apache-2.0

package finding

import (
	"os/exec"
	"testing"
)

func TestQuote(t *testing.T) {
	for word, want := range map[string]string{
		"/etc/replypath.yaml": "/etc/replypath.yaml", "eth0.7": "eth0.7", "": "''",
		"/etc/a b": "'/etc/a b'", "it's": `'it'\''s'`, "$HOME": "'$HOME'",
	} {
		if got := Quote(word); got != want {
			t.Errorf("%q: %s, not %s", word, got, want)
		}
		output, err := exec.Command("sh", "-c", "printf %s "+Quote(word)).Output()
		if string(output) != word || err != nil {
			t.Errorf("%q: the shell reads %q, %v", word, output, err)
		}
	}
}
