// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"os"
	"path/filepath"
	"testing"

	"replypath/loader/config"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/pins"
	"replypath/test/await"
)

// TestConfigurationExamined: what is examined is what is in force, flags included, whatever the file says by now; a
// file that is named comes first.
func TestConfigurationExamined(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "replypath.yaml")
	loaded := func(text string, o config.Overrides) *config.Config {
		cfg, err := config.Parse(path, []byte(text))
		await.Must(t, err)
		await.Must(t, o.Apply(cfg))
		return cfg
	}
	trial := config.Overrides{Enforce: true}
	observing := config.Overrides{Interfaces: []string{"eth1"}, Observe: true}
	for _, test := range []struct {
		name, file string // empty: there is none
		record     []byte
		given      *config.Config
		want       *config.Config
		said       string
		wrong      bool
	}{
		{name: "flags", file: "mode: enforce\n", record: loaded("", observing).Encode(), want: loaded("", observing)},
		{name: "a trial's", file: "mode: observe\n", record: loaded("mode: observe", trial).Encode(), want: loaded("mode: observe", trial)},
		{name: "another file", file: "follow: latest\n", record: loaded("", observing).Encode(), want: loaded("", observing),
			said: "it has changed since it was loaded"},
		{name: "a bad file", file: "mode: 1\n", record: loaded("", observing).Encode(), want: loaded("", observing),
			said: path + ":1: mode: 1 is not one of enforce, observe", wrong: true},
		{name: "bad in two ways", file: "mode: 1\nfollow: 2\n", record: loaded("", observing).Encode(), want: loaded("", observing),
			said: path + ":1: mode: 1 is not one of enforce, observe; " + path + ":2: follow: ", wrong: true},
		{name: "gone", record: loaded("follow: latest", observing).Encode(), want: loaded("follow: latest", observing),
			said: "it is gone: put it back, an empty one will do", wrong: true},
		{name: "by an earlier version", file: "follow: latest\n", want: loaded("follow: latest", config.Overrides{})},
		{name: "by a later version", file: "follow: latest\n", record: []byte(`{"version":9}`), want: loaded("follow: latest", config.Overrides{})},
		{name: "a file is named", file: "follow: latest\n", record: loaded("", observing).Encode(), given: config.Default(), want: config.Default()},
	} {
		t.Run(test.name, func(t *testing.T) {
			await.Must(t, os.RemoveAll(path))
			if test.file != "" {
				await.Must(t, os.WriteFile(path, []byte(test.file), 0o600))
			}
			g := &gatherer{
				Options: Options{Config: test.given, PinDir: filepath.Join(dir, "none")}, host: &snapshot.Host{},
				journal: &pins.Journal{ConfigPath: path, Config: test.record},
			}
			await.Must(t, g.configuration())
			await.Same(t, "configuration", string(test.want.Encode()), string(g.host.Config.Encode()))
			if f := g.host.InForce; f.Wrong != test.wrong || test.said != "" && f.File[:len(test.said)] != test.said || test.said == "" && f.File != "" {
				t.Errorf("the file: %q, wrong %v", f.File, f.Wrong)
			}
		})
	}
}
