// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/test/await"
	"replypath/test/documents"
)

func documentPages(t *testing.T) []*documents.Page {
	t.Helper()
	pages := await.Must1[[]*documents.Page](t)(documents.Pages("../.."))
	return pages
}

// placeholder stands in a page for a command or a value.
var placeholder = regexp.MustCompile(`^[A-Z][A-Z_-]*$|^\.\.\.$|^\$`)

// TestDocumentedCommands: the command lines in pages are such as the program takes. A page may leave out what is
// required, as it then only names the command.
func TestDocumentedCommands(t *testing.T) {
	checked := 0
	for _, page := range documentPages(t) {
		commands, err := page.Commands("replypath")
		checked += len(commands)
		if err != nil {
			t.Error(err)
		}
		for _, command := range commands {
			if err := parseCommand(command.Args[1:]); err != nil {
				t.Errorf("%s: %s: %v", page.At(command.Line), strings.Join(command.Args, " "), err)
			}
		}
	}
	if checked == 0 {
		t.Error("no page has a command")
	}
}

// parseCommand says what the program finds wrong with a command line, except what it lacks.
func parseCommand(args []string) error {
	args = slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return arg == "..." })
	if len(args) == 0 || placeholder.MatchString(args[0]) {
		return nil
	}
	root := newRoot(&cli.App{Stdout: io.Discard, Stderr: io.Discard}, fakeHost())
	root.InitDefaultHelpCmd()
	command, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if command == root && !strings.HasPrefix(rest[0], "-") {
		return fmt.Errorf("there is no command %s", rest[0])
	}
	command.InitDefaultHelpFlag()
	command.InitDefaultVersionFlag()
	if err := command.ParseFlags(withValues(command, rest)); err != nil {
		return err
	}
	operands := command.Flags().Args()
	if len(operands) == 0 || slices.ContainsFunc(operands, placeholder.MatchString) {
		return nil
	}
	return command.ValidateArgs(operands)
}

// withValues leaves out flags that lack their value, or have a placeholder for it.
func withValues(c *cobra.Command, args []string) []string {
	var given []string
	for i := 0; i < len(args); i++ {
		given = append(given, args[i])
		name, is := strings.CutPrefix(args[i], "--")
		flag := c.Flag(name)
		if !is || flag == nil || flag.NoOptDefVal != "" {
			continue
		}
		i++
		if i == len(args) || placeholder.MatchString(args[i]) {
			given = given[:len(given)-1]
		} else {
			given = append(given, args[i])
		}
	}
	return given
}

// TestDocumentedKeys: the table of the guide has each key of the configuration and no other, and the page names those
// of the lists, which the table has not.
func TestDocumentedKeys(t *testing.T) {
	const path = "docs/guide/configuration.md"
	pages := documentPages(t)
	i := slices.IndexFunc(pages, func(p *documents.Page) bool { return p.Path == path })
	if i < 0 {
		t.Fatalf("there is no page %s", path)
	}
	known := make(map[string]bool)
	for _, key := range yamlReference() {
		known[key.Path] = true
	}
	page := pages[i]
	text := strings.Join(page.Lines(), "\n")
	tabled := keysOf(page)
	for _, name := range tabled {
		if !known[name] {
			t.Errorf("%s: the table has the key %s, which there is not", path, name)
		}
	}
	for _, key := range yamlReference() {
		_, item, ofList := strings.Cut(key.Path, "[].")
		switch {
		case ofList && !regexp.MustCompile(`\b`+item+`\b`).MatchString(text):
			t.Errorf("%s: the page does not name %s", path, key.Path)
		case !ofList && key.Values != "map" && !slices.Contains(tabled, key.Path):
			t.Errorf("%s: the table lacks the key %s", path, key.Path)
		}
	}
}

// keysOf returns the names in the first column of the tables of keys.
func keysOf(page *documents.Page) []string {
	var names []string
	for _, table := range page.Tables() {
		if table.Header[0] != "key" {
			continue
		}
		for _, row := range table.Rows {
			names = append(names, row[0].Names...)
		}
	}
	return names
}
