// SPDX-License-Identifier: Apache-2.0

package harness

import "strings"

// Block is a fenced block of a page, under the heading Section. Line is that of the
// opening fence, from 1.
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
