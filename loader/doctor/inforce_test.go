package doctor

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"replypath/loader/config"
	"replypath/loader/pins"
)

// inForce is a datapath by some configuration, with a daemon.
func inForce(change func(*InForce)) func(*Host) {
	return func(h *Host) {
		h.Attached, h.Daemon = true, &Daemon{PID: 7}
		h.InForce = &InForce{
			Path: "/etc/replypath/replypath.yaml", LoadedAt: time.Date(2026, time.March, 1, 12, 30, 0, 0, time.UTC), Running: true, Config: h.Config,
		}
		change(h.InForce)
		if !h.InForce.Running {
			h.Daemon = nil
		}
	}
}

func flags(f *InForce) {
	f.Config.Flags = config.Overrides{Interfaces: []string{"eth1"}, Observe: true}
}

var configurationsToWarnOf = []func(*Host){
	inForce(func(f *InForce) { f.Running = false }), inForce(func(f *InForce) { f.Refused = "x" }),
	inForce(func(f *InForce) { f.File = "changed" }), inForce(func(f *InForce) { f.File, f.Running = "changed", false }),
	inForce(func(f *InForce) { f.File, f.Wrong = "gone", true }),
}

func TestConfigurations(t *testing.T) {
	const at = "at 2026-03-01 12:30:00"
	runTable(t, configurations, []wants{
		{"nothing is attached", nil, nil},
		{"a file and flags", inForce(flags), []string{"ok: in force: /etc/replypath/replypath.yaml with --interface eth1 --observe, loaded " + at}},
		{"neither", inForce(func(f *InForce) { f.Path = "" }), []string{"ok: in force: the defaults, loaded " + at}},
		{"not written down", inForce(func(f *InForce) { f.Config = nil }), []string{"ok: in force: /etc/replypath/replypath.yaml, loaded " + at}},
		{"no daemon", inForce(func(f *InForce) { flags(f); f.Running = false }), []string{
			"warning: no daemon runs: what is attached goes on by /etc/replypath/replypath.yaml with --interface eth1 --observe, loaded " + at +
				", and follows neither new interfaces and addresses nor gateways => systemctl start replypath",
		}},
		{"refused", inForce(func(f *InForce) { f.Refused = "x:1: mode" }), []string{
			"warning: a later configuration was refused, the one before stays: x:1: mode ?? replypath check --config /etc/replypath/replypath.yaml",
		}},
		{"changed", inForce(func(f *InForce) { f.File = "it has changed since it was loaded" }), []string{
			"warning: /etc/replypath/replypath.yaml: it has changed since it was loaded: in force is what was loaded " + at + " => kill -HUP 7",
		}},
		{"gone", inForce(func(f *InForce) { f.File, f.Wrong = "it is gone: put it back", true }), []string{
			"warning: /etc/replypath/replypath.yaml: it is gone: put it back: in force is what it said " + at +
				", and the next start fails ?? replypath check --config /etc/replypath/replypath.yaml",
		}},
	})
}

// TestConfigurationExamined: what is examined is what is in force, flags included, whatever the file says
// by now; a file that is named comes first.
func TestConfigurationExamined(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "replypath.yaml")
	loaded := func(text string, o config.Overrides) *config.Config {
		cfg, err := config.Parse(path, []byte(text))
		must(t, err)
		must(t, o.Apply(cfg))
		return cfg
	}
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
		{name: "another file", file: "follow: latest\n", record: loaded("", observing).Encode(), want: loaded("", observing),
			said: "it has changed since it was loaded"},
		{name: "a bad file", file: "mode: 1\n", record: loaded("", observing).Encode(), want: loaded("", observing),
			said: path + ":1: mode: 1 is not one of enforce, observe", wrong: true},
		{name: "gone", record: loaded("follow: latest", observing).Encode(), want: loaded("follow: latest", observing),
			said: "it is gone: put it back, an empty one will do", wrong: true},
		{name: "by an earlier version", file: "follow: latest\n", want: loaded("follow: latest", config.Overrides{})},
		{name: "by a later version", file: "follow: latest\n", record: []byte(`{"version":9}`), want: loaded("follow: latest", config.Overrides{})},
		{name: "a file is named", file: "follow: latest\n", record: loaded("", observing).Encode(), given: config.Default(), want: config.Default()},
	} {
		t.Run(test.name, func(t *testing.T) {
			must(t, os.RemoveAll(path))
			if test.file != "" {
				must(t, os.WriteFile(path, []byte(test.file), 0o600))
			}
			g := &gatherer{
				Options: Options{Config: test.given, PinDir: filepath.Join(dir, "none")}, host: &Host{},
				journal: &pins.Journal{ConfigPath: path, Config: test.record},
			}
			must(t, g.configuration())
			if diff := cmp.Diff(string(test.want.Encode()), string(g.host.Config.Encode())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if f := g.host.InForce; f.Wrong != test.wrong || test.said != "" && f.File[:len(test.said)] != test.said || test.said == "" && f.File != "" {
				t.Errorf("the file: %q, wrong %v", f.File, f.Wrong)
			}
		})
	}
}
