// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
	"testing"

	"replypath/test/await"
)

// TestEncode: another process reads the very configuration, with the flags, but for the lines of the file.
func TestEncode(t *testing.T) {
	for name, file := range map[string]string{"empty": "", "example": Example} {
		config := mustParse(t, file)
		listen := ""
		overrides := Overrides{Interfaces: []string{"eth1", "eth7"}, Observe: true, Listen: &listen, Mechanism: "tcx"}
		await.Must(t, overrides.Apply(config))
		got, err := Decode(config.Encode())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantSame(t, name, config, got)
		await.Same(t, name+": flags", "--interface eth1 --interface eth7 --observe --listen  --mechanism tcx", strings.Join(got.Flags.Words(), " "))
	}
}

// TestDecodeOthers: what an earlier version left out has its default, what a later one added is left out, and another
// form is refused.
func TestDecodeOthers(t *testing.T) {
	got, err := Decode([]byte(`{"version": 1, "config": {"Mode": "observe", "KeyOfALaterVersion": "on", "Interfaces": [{"Name": "eth1"}]}}`))
	await.Must(t, err)
	want := Default()
	want.Mode, want.Interfaces = ModeObserve, []Interface{{Name: "eth1"}}
	wantSame(t, "decoded", want, got)
	for _, text := range []string{"", "{", `{"version": 2, "config": {}}`, `{"version": 1, "config": null}`, `{"version": 1, "config": {"Mode": 1}}`} {
		if got, err := Decode([]byte(text)); err == nil {
			t.Errorf("%s was taken for %+v", text, got)
		}
	}
}

// TestEncodeBounded: a configuration of many thousand interfaces does not fill the journal.
func TestEncodeBounded(t *testing.T) {
	config := Default()
	for n := range 5000 {
		config.Interfaces = append(config.Interfaces, Interface{Name: fmt.Sprintf("interface%d", n)})
	}
	await.Same(t, "encoded", "", string(config.Encode()))
}
