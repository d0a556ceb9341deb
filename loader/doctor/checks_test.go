// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/test/await"
	"replypath/test/testhost"
)

// TestNotLookedAt: what may not be read is never in order, and keeps nothing else from being looked at.
func TestNotLookedAt(t *testing.T) {
	all := []string{snapshot.PartPins, snapshot.PartKernel, snapshot.PartGateways, snapshot.PartFirewall, snapshot.PartFlows, snapshot.PartHooks, snapshot.PartTraffic}
	needs, used := map[string]parts{}, map[string]bool{}
	for _, c := range known {
		needs[c.name] = c.needs
		for _, part := range c.needs {
			used[part] = true
		}
	}
	for _, part := range all {
		if !used[part] {
			t.Errorf("no check says that it needs %s", part)
		}
		h := testhost.New()
		h.Unread = map[string]string{part: "CAP_OF_TEST"}
		for _, f := range Judge(h) {
			isNeeded := slices.Contains(needs[f.Check], part)
			if isNeeded != (f.Severity == Warning) || isNeeded && f.Found != f.Check+" is not looked at: to read "+part+" takes CAP_OF_TEST" {
				t.Errorf("without %s: %s %s: %s", part, f.Severity, f.Check, f.Found)
			}
		}
		h.Unread, h.Failed = nil, map[string]string{part: "gone"}
		for _, f := range Judge(h) {
			if slices.Contains(needs[f.Check], part) || (f.Check == "facts") != (f.Found == part+" could not be read: gone") {
				t.Errorf("where %s could not be read: %s %s: %s", part, f.Severity, f.Check, f.Found)
			}
		}
	}
}

// The table of checks in the documentation is the one in the source. After a change that is meant: UPDATE_DOCS=1 go
// test -run Reference.
func TestReference(t *testing.T) {
	const file = "../../docs/guide/troubleshooting.md"
	text := await.Must1[[]byte](t)(os.ReadFile(file))
	between := regexp.MustCompile(`(?s)(<!-- checks -->\n).*(<!-- /checks -->\n)`)
	if !between.Match(text) {
		t.Fatalf("%s has no place for the table", file)
	}
	want := between.ReplaceAllString(string(text), "${1}"+strings.ReplaceAll(table(), "$", "$$")+"${2}")
	if want == string(text) {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("the checks in %s are not up to date: UPDATE_DOCS=1 go test ./loader/doctor -run Reference", file)
	}
	await.Must(t, os.WriteFile(file, []byte(want), 0o644))
}

func table() string {
	var b strings.Builder
	b.WriteString("\n| check | finds |\n|---|---|\n")
	for _, c := range known {
		b.WriteString("| <a id=\"" + anchor(c.name) + "\"></a>`" + c.name + "` | " + c.says + " |\n")
	}
	b.WriteString("\n")
	return b.String()
}

// Names are for scripts: kebab-case, each once, and what stands beside them is one line.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	name := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	for _, c := range known {
		if !name.MatchString(c.name) || seen[c.name] {
			t.Errorf("%q is no name, or not the first", c.name)
		}
		seen[c.name] = true
		for _, text := range []string{c.says, c.fine} {
			if text == "" && c.name != "managed" || strings.ContainsAny(text, "\n|") {
				t.Errorf("%s: %q is not one line for a table", c.name, text)
			}
		}
		if c.fine != strings.ToLower(c.fine) {
			t.Errorf("%s: %q is not in lower case", c.name, c.fine)
		}
	}
}

// TestBesideAnother: where another --pin-dir has the datapath, doctor says so, and neither where replies leave nor a start.
func TestBesideAnother(t *testing.T) {
	for _, e := range []snapshot.Elsewhere{{Dir: "/sys/fs/bpf/replypath", PID: 7}, {PID: 7}, {Dir: "/sys/fs/bpf/replypath"}} {
		h := testhost.New()
		h.PinDir, h.Elsewhere, h.Routes = "/sys/fs/bpf/other", &e, h.Routes[1:] // without a default route, for which a start is a fix
		h.OwnWays = []snapshot.OwnWay{{Address: testhost.Prefix("10.4.0.100/24"), On: "eth1", By: "eth0", Device: testhost.Eth0}}
		all := Judge(h)
		testhost.WantForm(t, all)
		for _, f := range all {
			if f.Check == "addresses" && f.Severity != OK || strings.Contains(finding.OrEmpty(f.Fix), "replypath ") {
				t.Errorf("%+v: %+v", e, f)
			}
			isSaid := strings.HasPrefix(f.Found, "nothing is attached here: ") && strings.Contains(f.Found, "in this network namespace")
			if f.Check == "attached" && (f.Severity != Warning || !isSaid || !strings.HasPrefix(finding.OrEmpty(f.Inspect), remedy.AskElsewhere(&e))) {
				t.Errorf("%+v: %+v", e, f)
			}
		}
	}
}

func TestWorstFirst(t *testing.T) {
	h := testhost.New()
	h.Devices[2].XDP = true
	h.Settings["net.ipv4.conf.eth1.rp_filter"] = 1
	h.Routes[0].Gateway = testhost.Address("10.3.0.100")
	var got []string
	for _, f := range Judge(h)[:4] {
		got = append(got, string(f.Severity)+" "+f.Check)
	}
	want := []string{"error own-gateway", "warning rp-filter", "note attached", "note xdp"}
	await.Same(t, "findings", want, got)
}
