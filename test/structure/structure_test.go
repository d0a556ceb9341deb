// SPDX-License-Identifier: Apache-2.0

package structure

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"replypath/test/await"
)

// bounds are what a package may measure at most.
type bounds struct {
	files   int // 0 for any number
	lines   int
	refs    float64
	cycle   int
	mutable int
	methods int
}

// limits hold for every other package.
var limits = bounds{lines: 2600, refs: 3.5, cycle: 8, mutable: 12, methods: 25}

// orchestrator are those of loader, which only calls those who own the state.
var orchestrator = bounds{files: 15, lines: 2000, refs: 3.5, cycle: 8, mutable: 12, methods: 25}

// excess is what packages measured that are above the limits. A change may bring it down, and none may raise it.
var excess = map[string]bounds{
	"loader": orchestrator,
}

// TestBounds shows what each package of the product measures, and holds it against its bounds.
func TestBounds(t *testing.T) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "package\tfiles\tlines\treferences a file\tlargest cycle\tmost fields that change\tmost methods")
	for _, p := range product(t) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%.1f\t%d\t%s\t%s\n", p.Path, p.Files, p.Lines, p.Refs, p.Cycle, p.Mutable, p.Methods)
		b, known := excess[p.Path]
		if !known {
			b = limits
		}
		b.hold(t, p)
	}
	await.Must(t, w.Flush())
	t.Log("\n" + table.String())
}

// hold tells where a package is above its bounds.
func (b bounds) hold(t *testing.T, p *Package) {
	t.Helper()
	for _, c := range []struct {
		what          string
		measured, max float64
	}{
		{"files", float64(p.Files), float64(b.files)},
		{"lines", float64(p.Lines), float64(b.lines)},
		{"references from file to file, per file", p.Refs, b.refs},
		{"files in the largest cycle", float64(p.Cycle), float64(b.cycle)},
		{"fields that change of " + p.Mutable.Name, float64(p.Mutable.Count), float64(b.mutable)},
		{"methods of " + p.Methods.Name, float64(p.Methods.Count), float64(b.methods)},
	} {
		const rounding = 0.05 // of what the table shows
		if c.measured >= c.max+rounding && c.max > 0 {
			t.Errorf("%s: %.1f %s, above %.1f: move code to where it belongs, or split the type", p.Path, c.measured, c.what, c.max)
		}
	}
}

// mostUpward is how many references may run back up from file to file, of all packages, wherever the files stand.
const mostUpward = 5

// TestUpward shows those.
func TestUpward(t *testing.T) {
	count := 0
	for _, p := range product(t) {
		for _, reference := range p.Upward {
			t.Logf("%s: %s", p.Path, reference)
			count++
		}
	}
	if count > mostUpward {
		t.Errorf("%d references run back up, more than %d: move what is referred to below who refers to it", count, mostUpward)
	}
}

// layers are the product's, the lowest first. A package imports only of lower layers; metrics stands alone.
var layers = []string{"bpf", "loader/", "loader", "cmd/"}

func layerOf(path string) int {
	return slices.IndexFunc(layers, func(layer string) bool {
		return path == layer || strings.HasSuffix(layer, "/") && strings.HasPrefix(path, layer)
	})
}

// TestImports: no import runs back up, and the demo runs the program as its users do.
func TestImports(t *testing.T) {
	checked := 0
	for _, p := range product(t) {
		for _, imported := range p.Imports {
			switch alone := p.Path == "metrics"; {
			case alone && !strings.HasPrefix(imported, "metrics/"):
				t.Errorf("metrics imports %s: it stands alone", imported)
			case p.Path == "cmd/replypath-demo" && !strings.HasPrefix(imported, "test/"):
				t.Errorf("the demo imports %s: it knows the program from outside", imported)
			case layerOf(imported) > layerOf(p.Path):
				t.Errorf("%s imports %s, which is of a higher layer", p.Path, imported)
			}
			checked++
		}
	}
	if checked == 0 {
		t.Error("no import was looked at")
	}
}

// unlinked are packages that serve tests and generators, and have no business in a program that runs as root.
var unlinked = []string{
	"replypath/test", "testing", "net/http/pprof", "github.com/gopacket/gopacket",
	"github.com/spf13/cobra/doc", "github.com/cpuguy83/go-md2man", "github.com/russross/blackfriday",
	"github.com/yuin/goldmark", "mvdan.cc/sh",
}

// TestLinked: nothing of unlinked is in the program, whoever would import it.
func TestLinked(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "replypath/cmd/replypath").Output()
	if err != nil {
		t.Fatalf("list what is linked: %v", err)
	}
	for path := range strings.FieldsSeq(string(output)) {
		for _, no := range unlinked {
			if path == no || strings.HasPrefix(path, no+"/") {
				t.Errorf("%s is linked into the program", path)
			}
		}
	}
}

var measureProduct = sync.OnceValues(func() ([]*Package, error) {
	return Measure("replypath/bpf", "replypath/loader/...", "replypath/cmd/...", "replypath/metrics/...")
})

func product(t *testing.T) []*Package {
	t.Helper()
	measured, err := measureProduct()
	await.Must(t, err)
	return measured
}

// TestNetlinkHasATimeLimit: whoever asks the kernel does so by a socket that does not wait for ever.
func TestNetlinkHasATimeLimit(t *testing.T) {
	grep := exec.CommandContext(t.Context(), "grep", "-rlF", "--include=*.go", "--exclude=*_test.go", "netlink.NewHandle(", "loader", "cmd", "metrics")
	grep.Dir = "../.."
	output, err := grep.Output()
	if got := strings.TrimSpace(string(output)); err != nil || got != "loader/discover/dump/dump.go" {
		t.Errorf("netlink handles are opened in %s: use dump.Open, which limits their time (%v)", got, err)
	}
}
