// SPDX-License-Identifier: Apache-2.0

package guide

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"replypath/test/await"
	testhost "replypath/test/host"
)

// page is a page whose commands are run.
type page struct {
	t      *testing.T
	name   string
	blocks []testhost.Block
	ran    []bool
	// ways are those of commands that do not simply end with success.
	ways map[string]way
	used map[string]bool
}

// way is how a command is run that does not simply end with success.
type way struct {
	code int // that it ends with
	// until is what a line of a command says that goes on by itself. Then enter is typed, or Ctrl-C where there is
	// none; or stays is set, and it goes on in a terminal of its own until another command of ends, or the end of the
	// page.
	until, enter string
	stays        bool
	// confirms has what stays end by itself.
	confirms bool
	// answer is typed ahead.
	answer string
	// step is the one of .ci/run that runs the command, which is not run here.
	step string
}

func openPage(t *testing.T, name string) *page {
	p := &page{t: t, name: name, blocks: testhost.Blocks(read(t, name)), used: make(map[string]bool)}
	p.ran = make([]bool, len(p.blocks))
	return p
}

// run runs the commands of sections on a host, or all where none is named, in the order of the page.
func (p *page) run(h *host, sections ...string) {
	p.t.Helper()
	count := 0
	for i, b := range p.blocks {
		if !b.Typed() || len(sections) > 0 && !slices.Contains(sections, b.Section) {
			continue
		}
		count++
		p.ran[i] = true
		switch p.t.Logf("%s:%d", p.name, b.Line); b.Language {
		case "sh":
			p.runCommands(h, b.Commands())
		case "console":
			p.runShown(h, b)
		}
	}
	h.closeOthers()
	if count == 0 {
		p.t.Errorf("%s has no commands in %q", p.name, sections)
	}
}

// elsewhere leaves the commands of a section to a test, whose file names the page.
func (p *page) elsewhere(section, file string) {
	p.t.Helper()
	if !strings.Contains(read(p.t, file), p.name) {
		p.t.Errorf("%s does not name %s, whose section %q it is to run", file, p.name, section)
	}
	for i, b := range p.blocks {
		p.ran[i] = p.ran[i] || b.Section == section
	}
}

// text returns what a section shows in a language.
func (p *page) text(section, language string) string {
	p.t.Helper()
	for _, b := range p.blocks {
		if b.Section == section && b.Language == language {
			return b.Text
		}
	}
	p.t.Fatalf("%s has no %s in section %q", p.name, language, section)
	return ""
}

// wantAllRun wants every command of the page to have been run, and every way to be needed.
func (p *page) wantAllRun() {
	p.t.Helper()
	for i, b := range p.blocks {
		if b.Typed() && !p.ran[i] {
			p.t.Errorf("%s:%d: the commands of section %q are not run: name it in the page's runner, in test/guide/runners_test.go",
				p.name, b.Line, b.Section)
		}
	}
	for command := range p.ways {
		if !p.used[command] {
			p.t.Errorf("%s has no command %q: remove it from its runner in test/guide/runners_test.go", p.name, command)
		}
	}
}

// runCommands runs commands: those that end by themselves in one shell, as far as others do not come between.
func (p *page) runCommands(h *host, commands []string) {
	p.t.Helper()
	var script []string
	flush := func() {
		if len(script) > 0 {
			h.typed(strings.Join(script, "\n"), "", 0)
		}
		script = nil
	}
	for _, command := range commands {
		if ends(command) {
			flush()
			h.closeOthers()
		}
		w, special := p.ways[command]
		switch {
		case special:
			flush()
			p.used[command] = true
			p.runWay(h, command, w)
		case strings.HasPrefix(command, "make "):
			flush()
			h.make(command)
		default:
			script = append(script, command)
		}
	}
	flush()
}

// ends tells whether a reader presses Ctrl-C in the other terminals before a command.
func ends(command string) bool {
	return command != "replypath try confirm" &&
		regexp.MustCompile(`^(replypath (run|try|detach)|systemctl (start|stop|enable|disable))\b`).MatchString(command)
}

func (p *page) runWay(h *host, command string, w way) {
	p.t.Helper()
	if w.step != "" {
		if !strings.Contains(read(p.t, ".ci/run"), "step '"+w.step+"'") {
			p.t.Errorf(".ci/run has no step %q, which is to run %q", w.step, command)
		}
		return
	}
	if w.until == "" {
		h.typed(command, w.answer, w.code)
		if w.confirms {
			h.wantOthersEnd()
		}
		return
	}
	t := h.open(command, w.until)
	switch {
	case w.stays:
		h.others = append(h.others, t)
		return
	case w.enter != "":
		await.Must1[int](p.t)(t.keyboard.WriteString(w.enter))
	default:
		t.interrupt()
	}
	t.WantEnd(w.code)
}

// prompt begins a command of a block that shows output as well.
var prompt = regexp.MustCompile(`^[$#] `)

// runShown runs the commands of a block, and wants each to write what the block shows below.
func (p *page) runShown(h *host, b testhost.Block) {
	p.t.Helper()
	command, shown := "", ""
	check := func() {
		if command == "" {
			return
		}
		w, special := p.ways[command]
		p.used[command] = special
		var output string
		switch {
		case w.until != "":
			if ends(command) {
				h.closeOthers()
			}
			t := h.open(command, w.until)
			t.interrupt()
			t.WantEnd(w.code)
			output = t.Log.String()
		default:
			output = h.typed(command, w.answer, w.code)
		}
		if line := missing(shown, output); line != "" {
			p.t.Errorf("%s:%d: %s does not write %q, in this place:\n%s", p.name, b.Line, command, line, output)
		}
	}
	for line := range strings.Lines(b.Text) {
		if prompt.MatchString(line) {
			check()
			command, shown = testhost.WithoutComment(line[2:]), ""
			continue
		}
		shown += line
	}
	check()
}

// varying is what differs from run to run, and what of it is compared: addresses are, and names with digits in them.
var varying = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`), "MAC"},
	{regexp.MustCompile(`\b(\d{4}-\d\d-\d\dT)?\d\d:\d\d:\d\d(\.\d+)?Z?\b`), "TIME"},
	{regexp.MustCompile(`\b(\d+(\.\d+)?(d|h|m|s|ms|µs))+\b`), "TIME"},
	{regexp.MustCompile(`(^|[\s,;(=])\d+(\.\d+)?($|[\s,;)%])`), "${1}NUMBER$3"},
	{regexp.MustCompile(`[\s─-]+`), " "},
}

func shape(line string) string {
	for _, v := range varying {
		line = v.pattern.ReplaceAllString(line, v.by)
	}
	return strings.TrimSpace(line)
}

// missing returns the first of the shown lines that the output has not, in their order, but for what varies. Other
// lines may stand between, and a line that ends with ... may go on.
func missing(shown, output string) string {
	lines := strings.Split(output, "\n")
	for want := range strings.Lines(shown) {
		if shape(want) == "" || shape(want) == "..." {
			continue
		}
		begin, goesOn := strings.CutSuffix(shape(want), "...")
		i := slices.IndexFunc(lines, func(line string) bool {
			return shape(line) == begin || goesOn && strings.HasPrefix(shape(line), strings.TrimSpace(begin))
		})
		if i < 0 {
			return strings.TrimSpace(want)
		}
		lines = lines[i+1:]
	}
	return ""
}
