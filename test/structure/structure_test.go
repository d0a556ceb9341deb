// SPDX-License-Identifier: Apache-2.0

package structure

import (
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"replypath/test/await"
)

// What a package may hold at most, and a type of it. Loader only calls those who own the state.
const (
	mostLines       = 2600
	mostLoaderLines = 2000
	mostLoaderFiles = 15
	mostMethods     = 25
)

// TestBounds shows what each package of the product measures, and holds it against its bounds.
func TestBounds(t *testing.T) {
	for _, p := range product(t) {
		lines := mostLines
		if p.Path == "loader" {
			if lines = mostLoaderLines; p.Files > mostLoaderFiles {
				t.Errorf("%s: %d files, more than %d: move code to who owns the state", p.Path, p.Files, mostLoaderFiles)
			}
		}
		t.Logf("%s: %d lines in %d files", p.Path, p.Lines, p.Files)
		if p.Lines > lines {
			t.Errorf("%s: %d lines, more than %d: move code to where it belongs", p.Path, p.Lines, lines)
		}
		for name, methods := range p.Methods {
			if methods > mostMethods {
				t.Errorf("%s: %d methods of %s, more than %d: split the type", p.Path, methods, name, mostMethods)
			}
		}
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

// TestDaemonIsNoDoctor: nothing of doctor is in what the daemon runs.
func TestDaemonIsNoDoctor(t *testing.T) {
	deps, err := exec.Command("go", "list", "-deps", "replypath/loader").Output()
	await.Must(t, err)
	if i := strings.Index(string(deps), "replypath/loader/doctor"); i >= 0 || len(deps) == 0 {
		t.Errorf("loader imports %q", string(deps)[max(0, i):])
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
