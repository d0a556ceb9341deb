// SPDX-License-Identifier: Apache-2.0

package show

import (
	"bytes"
	"strings"
	"testing"

	"replypath/test/fakehost"
)

// People get colours, pipes and files do not.
func TestTraceColour(t *testing.T) {
	var out bytes.Buffer
	p := &tracePrinter{to: &out, errors: &out, colour: true}
	for _, packet := range fakehost.Packets() {
		if err := p.print(packet); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"\x1b[32mcorrected\x1b[0m\n", "\x1b[33mfallback (bound_device)\x1b[0m\n", "local-origin\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%q", want, out.String())
		}
	}
}
