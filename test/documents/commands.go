// SPDX-License-Identifier: Apache-2.0

package documents

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Command is a command line of a page: the program's name and its arguments.
type Command struct {
	Line int
	Args []string
}

// called is what follows a program's name in a command line: a word or a flag. Lines that a program prints begin with its
// name too.
var called = regexp.MustCompile(`^ (-{0,2}[a-z][a-z-]*|[A-Z]+)(\s|$)`)

// Commands returns the command lines of a program that a page has in code blocks and code spans, also those that follow
// another command (ip netns exec a replypath status). An error tells what is no shell text.
func (p *Page) Commands(program string) ([]Command, error) {
	var commands []Command
	var wrong []string
	add := func(line int, text string) {
		found, err := commandsIn(text, program)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", p.At(line), err))
		}
		for _, c := range found {
			commands = append(commands, Command{line + c.Line - 1, c.Args})
		}
	}
	for _, fence := range p.Fences() {
		switch fence.Language {
		case "sh", "bash":
			add(fence.Line, fence.Text)
		case "console", "":
			for i, line := range strings.Split(fence.Text, "\n") {
				if typed, is := typed(line, program); is {
					add(fence.Line+i, typed)
				}
			}
		}
	}
	for _, span := range p.Spans() {
		if rest, is := strings.CutPrefix(span.Text, program); is && called.MatchString(rest) {
			add(span.Line, span.Text)
		}
	}
	if len(wrong) > 0 {
		return commands, fmt.Errorf("%s", strings.Join(wrong, "\n"))
	}
	return commands, nil
}

// typed returns the command of a line of a console, false for what a command has printed.
func typed(line, program string) (string, bool) {
	for _, prompt := range []string{"$ ", "# "} {
		if command, is := strings.CutPrefix(line, prompt); is {
			return command, true
		}
	}
	rest, is := strings.CutPrefix(line, program)
	return line, is && called.MatchString(rest)
}

// commandsIn returns the command lines of a program in a shell's text. Assignments before a command are left out.
func commandsIn(text, program string) ([]Command, error) {
	file, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	if err != nil {
		return nil, fmt.Errorf("%q is no command line: %w", strings.TrimSpace(text), err)
	}
	var commands []Command
	syntax.Walk(file, func(n syntax.Node) bool {
		call, is := n.(*syntax.CallExpr)
		if !is {
			return true
		}
		words := make([]string, len(call.Args))
		for i, word := range call.Args {
			words[i] = plain(word)
		}
		// Helm has releases of that name.
		if i := slices.Index(words, program); i >= 0 && words[0] != "helm" {
			commands = append(commands, Command{int(call.Args[i].Pos().Line()), words[i:]})
		}
		return true
	})
	return commands, nil
}

// plain returns a word without quotes; what only a shell knows stays as it is written.
func plain(word *syntax.Word) string {
	var b strings.Builder
	for _, part := range word.Parts {
		switch part := part.(type) {
		case *syntax.Lit:
			b.WriteString(part.Value)
		case *syntax.SglQuoted:
			b.WriteString(part.Value)
		case *syntax.DblQuoted:
			b.WriteString(plain(&syntax.Word{Parts: part.Parts}))
		default:
			if err := syntax.NewPrinter().Print(&b, part); err != nil {
				b.WriteString("$")
			}
		}
	}
	return b.String()
}
