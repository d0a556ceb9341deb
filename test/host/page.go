// SPDX-License-Identifier: Apache-2.0

package host

import (
	"regexp"
	"strings"
)

// Block is a fenced block of a page, under the heading Section. Line is that of the opening fence, from 1.
type Block struct {
	Section, Language, Text string
	Line                    int
}

// Blocks returns the fenced blocks of a page, in their order.
func Blocks(page string) []Block {
	const fence = "```"
	var blocks []Block
	var section string
	var open *Block
	number := 0
	for line := range strings.Lines(page) {
		number++
		switch {
		case strings.HasPrefix(line, fence) && open != nil:
			blocks = append(blocks, *open)
			open = nil
		case strings.HasPrefix(line, fence):
			open = &Block{Section: section, Language: strings.TrimSpace(strings.TrimPrefix(line, fence)), Line: number}
		case open != nil:
			open.Text += line
		case strings.HasPrefix(line, "#"):
			section = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	return blocks
}

// Typed tells whether a block is for a reader to type.
func (b Block) Typed() bool { return b.Language == "sh" || b.Language == "console" }

// Commands returns the commands of a block, one a line or several lines that end with \.
func (b Block) Commands() []string {
	if strings.Contains(b.Text, "<<") {
		return []string{b.Text}
	}
	var commands []string
	joined := ""
	for line := range strings.Lines(b.Text) {
		joined += line
		if strings.HasSuffix(line, "\\\n") {
			continue
		}
		if command := WithoutComment(joined); command != "" {
			commands = append(commands, command)
		}
		joined = ""
	}
	return commands
}

// comment is the remark behind a command.
var comment = regexp.MustCompile(`(^|\s+)#.*$`)

// WithoutComment returns a command without the remark behind it.
func WithoutComment(command string) string {
	return strings.TrimSpace(comment.ReplaceAllString(strings.TrimSuffix(command, "\n"), ""))
}
