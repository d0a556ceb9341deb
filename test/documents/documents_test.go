// SPDX-License-Identifier: Apache-2.0

package documents

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/yuin/goldmark/ast"
	east "github.com/yuin/goldmark/extension/ast"

	"replypath/loader/config"
	"replypath/test/await"
)

const root = "../.."

func pages(t *testing.T) []*Page {
	t.Helper()
	pages, err := Pages(root)
	await.Must(t, err)
	return pages
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	await.Must(t, err)
	return string(data)
}

// TestLinks: a relative link leads to a file of the repository, and its anchor to a heading there.
func TestLinks(t *testing.T) {
	all := make(map[string]*Page)
	for _, page := range pages(t) {
		all[page.Path] = page
	}
	for _, page := range all {
		for _, link := range page.Links() {
			if wrong := page.broken(root, link.Text, all); wrong != "" {
				t.Errorf("%s: link %s %s", page.At(link.Line), link.Text, wrong)
			}
		}
	}
}

// maxLine is how many columns a line has at most, tables and code left out, and where links lead.
const maxLine = 110

// made are pages that a program fills with what it has measured.
var made = []string{"docs/BENCHMARKS.md", "docs/EVIDENCE.md"}

// destination is where a link leads: it cannot be wrapped.
var destination = regexp.MustCompile(`\]\([^)]*\)|<?https?://\S+`)

// TestLineLength: lines can be read in a terminal.
func TestLineLength(t *testing.T) {
	for _, page := range pages(t) {
		if slices.Contains(made, page.Path) {
			continue
		}
		free := page.freeLines()
		for i, line := range page.Lines() {
			if n := utf8.RuneCountInString(destination.ReplaceAllString(line, "]")); n > maxLine && !free[i+1] {
				t.Errorf("%s: %d columns, more than %d: wrap it", page.At(i+1), n, maxLine)
			}
		}
	}
}

// freeLines are those of tables, code and comments.
func (p *Page) freeLines() map[int]bool {
	free := make(map[int]bool)
	for _, fence := range p.Fences() {
		for i := range strings.Count(fence.Text, "\n") + 1 {
			free[fence.Line+i] = true
		}
	}
	each(p.root, func(n *east.TableHeader) { free[p.lineOf(n)] = true })
	each(p.root, func(n *east.TableRow) { free[p.lineOf(n)] = true })
	each(p.root, func(n *ast.HTMLBlock) {
		for i := range n.Lines().Len() {
			free[p.lineAt(n.Lines().At(i).Start)] = true
		}
	})
	return free
}

// othersFile is a comment that says that a YAML text is of another program.
var othersFile = regexp.MustCompile(`#.*\b([\w.-]+\.ya?ml)`)

// TestConfigurations: what pages offer as a configuration is one. Another program's file is named in a comment of its
// first line: # prometheus.yml.
func TestConfigurations(t *testing.T) {
	for _, page := range pages(t) {
		for _, fence := range page.Fences() {
			if fence.Language != "yaml" {
				continue
			}
			first, _, _ := strings.Cut(fence.Text, "\n")
			if name := othersFile.FindStringSubmatch(first); name != nil && name[1] != "replypath.yaml" {
				continue
			}
			if _, err := config.Parse("yaml", []byte(fence.Text)); err != nil {
				t.Errorf("%s: %v", page.At(fence.Line), err)
			}
		}
	}
}

// named are words that pages use for what is elsewhere.
var (
	named = regexp.MustCompile(`\breplypath_[a-z][a-z0-9_]*[a-z0-9]\b`)
	alert = regexp.MustCompile(`\bReplypath[A-Z]\w+`)
)

// TestMetrics: each metric that a page names is one of the reference, and each alert is a rule. What the kernel shows of
// the programs has such names too, and so have the variables of the Ansible role.
func TestMetrics(t *testing.T) {
	known := make(map[string]bool)
	for _, name := range named.FindAllString(read(t, "docs/METRICS.md"), -1) {
		known[name] = true
	}
	sources, err := filepath.Glob(filepath.Join(root, "bpf/src/*.[ch]"))
	if err != nil || len(sources) == 0 {
		t.Fatalf("no sources of the programs: %v", err)
	}
	for _, source := range sources {
		for _, name := range named.FindAllString(read(t, strings.TrimPrefix(source, root)), -1) {
			known[name] = true
		}
	}
	rules := read(t, "docs/prometheus-alerts.yaml")
	for _, name := range slices.Concat(alert.FindAllString(rules, -1), named.FindAllString(rules, -1)) {
		known[name] = true
	}
	for _, variables := range []string{"roles/replypath/defaults/main.yml", "roll-out.yml"} {
		for _, name := range named.FindAllString(read(t, "deploy/ansible/"+variables), -1) {
			known[name] = true
		}
	}
	for _, page := range pages(t) {
		for i, line := range page.Lines() {
			for _, name := range slices.Concat(named.FindAllString(line, -1), alert.FindAllString(line, -1)) {
				if !known[name] {
					t.Errorf("%s: there is no metric, program or alert %s", page.At(i+1), name)
				}
			}
		}
	}
}

// target is a rule of the Makefile.
var target = regexp.MustCompile(`(?m)^([a-z][a-z -]*):`)

// TestTargets: each target that a page tells to make is in the Makefile.
func TestTargets(t *testing.T) {
	known := make(map[string]bool)
	for _, names := range target.FindAllStringSubmatch(read(t, "Makefile"), -1) {
		for name := range strings.FieldsSeq(names[1]) {
			known[name] = true
		}
	}
	for _, page := range pages(t) {
		commands, err := page.Commands("make")
		if err != nil {
			t.Error(err)
		}
		for _, command := range commands {
			for _, arg := range command.Args[1:] {
				if !strings.HasPrefix(arg, "-") && !strings.Contains(arg, "=") && !known[arg] {
					t.Errorf("%s: there is no target %s", page.At(command.Line), arg)
				}
			}
		}
	}
}
