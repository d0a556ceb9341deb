// SPDX-License-Identifier: Apache-2.0

package documents

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

// Slug is the anchor that GitHub gives a heading: its letters, digits, underscores and hyphens, with hyphens for spaces.
func Slug(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

// namedAnchor is one that a page makes by itself, as EVIDENCE.md does for each promise.
var namedAnchor = regexp.MustCompile(`<a id="([^"]+)"></a>`)

// anchors are those of a page. A heading that stands there again has a number.
func (p *Page) anchors() map[string]bool {
	seen := make(map[string]int)
	anchors := make(map[string]bool)
	for _, heading := range p.Headings() {
		slug := Slug(heading.Text)
		if n := seen[slug]; n > 0 {
			anchors[fmt.Sprintf("%s-%d", slug, n)] = true
		} else {
			anchors[slug] = true
		}
		seen[slug]++
	}
	for _, named := range namedAnchor.FindAllSubmatch(p.source, -1) {
		anchors[string(named[1])] = true
	}
	return anchors
}

// broken says what is wrong with a link of a page to another file of the repository, "" for nothing.
func (p *Page) broken(root, destination string, pages map[string]*Page) string {
	link, err := url.Parse(destination)
	switch {
	case err != nil:
		return err.Error()
	case link.Scheme != "" || link.Host != "":
		return "" // not of the repository
	case strings.HasPrefix(link.Path, "/"):
		return "is no relative link"
	}
	target := p.Path
	if link.Path != "" {
		target = filepath.Join(filepath.Dir(p.Path), link.Path)
	}
	if _, err := os.Stat(filepath.Join(root, target)); err != nil {
		return "leads to no file"
	}
	if link.Fragment == "" {
		return ""
	}
	page, is := pages[target]
	if !is {
		return "has an anchor of a file that is no page"
	}
	if !page.anchors()[link.Fragment] {
		return "leads to no heading or anchor"
	}
	return ""
}
