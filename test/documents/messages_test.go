// SPDX-License-Identifier: Apache-2.0

package documents

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"replypath/test/await"
)

// fewWords are as many as a text of the program has at most that is no message.
const fewWords = 3

// verb is where fmt puts something into a message (package fmt, "Printing").
var verb = regexp.MustCompile(`%[-+# 0]*(\[\d+\])?[a-zA-Z]`)

// TestMessageProse writes the program's messages as Markdown, each below its place, where REPLYPATH_PROSE names a
// directory for it: make lint-docs has them read.
func TestMessageProse(t *testing.T) {
	dir := os.Getenv("REPLYPATH_PROSE")
	if dir == "" {
		t.Skip("REPLYPATH_PROSE names no directory")
	}
	var prose strings.Builder
	for _, of := range []string{"cmd", "loader", "metrics"} {
		err := filepath.WalkDir(filepath.Join(root, of), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			return writeMessages(&prose, path)
		})
		await.Must(t, err)
	}
	await.Must(t, os.WriteFile(filepath.Join(dir, "messages.md"), []byte(prose.String()), 0o644))
}

// writeMessages writes the texts of a file that have several words on one line.
func writeMessages(to *strings.Builder, path string) error {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		literal, is := n.(*ast.BasicLit)
		if !is || literal.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(literal.Value)
		if err == nil && strings.Count(text, " ") >= fewWords && !strings.Contains(strings.TrimSpace(text), "\n") {
			at := files.Position(literal.Pos())
			fmt.Fprintf(to, "# %s:%d\n\n%s\n\n", filepath.ToSlash(at.Filename), at.Line, verb.ReplaceAllString(text, "X"))
		}
		return true
	})
	return nil
}
