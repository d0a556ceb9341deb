package config

import (
	"slices"
	"strings"
	"unicode"
)

// glob is a pattern of path.Match, a glyph for each character or star of it.
type glob []glyph

// glyph stands for one character, or as a star for any number of them.
type glyph struct {
	star    bool
	negated bool
	ranges  []runeRange
}

type runeRange struct{ low, high rune }

func (g glyph) matches(r rune) bool {
	within := slices.ContainsFunc(g.ranges, func(x runeRange) bool { return x.low <= r && r <= x.high })
	return g.star || within != g.negated
}

// parseGlob reads a pattern that checkName accepts, as path.Match does.
func parseGlob(pattern string) glob {
	var g glob
	p := &globReader{[]rune(pattern)}
	for len(p.rest) > 0 {
		switch r := p.next(); r {
		case '*':
			g = append(g, glyph{star: true})
		case '?':
			g = append(g, glyph{negated: true}) // none but the slash, which no name has
		case '[':
			g = append(g, p.class())
		case '\\':
			r = p.next()
			fallthrough
		default:
			g = append(g, glyph{ranges: []runeRange{{r, r}}})
		}
	}
	return g
}

type globReader struct{ rest []rune }

// next returns a character, 0 at the end.
func (p *globReader) next() rune {
	if len(p.rest) == 0 {
		return 0
	}
	r := p.rest[0]
	p.rest = p.rest[1:]
	return r
}

// skip takes a character if it is the next one.
func (p *globReader) skip(r rune) bool {
	is := len(p.rest) > 0 && p.rest[0] == r
	if is {
		p.next()
	}
	return is
}

// class reads what follows a bracket. It has at least one range.
func (p *globReader) class() glyph {
	g := glyph{negated: p.skip('^')}
	for len(p.rest) > 0 && (len(g.ranges) == 0 || p.rest[0] != ']') {
		low := p.character()
		high := low
		if p.skip('-') {
			high = p.character()
		}
		g.ranges = append(g.ranges, runeRange{low, high})
	}
	p.skip(']')
	return g
}

// character reads one of a class, which a backslash may precede.
func (p *globReader) character() rune {
	p.skip('\\')
	return p.next()
}

// meeting is a state of the search for a name that two globs match: how much of
// each is used up, and what has been read as long as that may still become one
// of the names to be avoided.
type meeting struct {
	a, b   int
	prefix string
	free   bool // it can become none of them any more
}

// commonName returns a short name that both globs match and that is none of
// those to be avoided, "" where there is none.
//
// It follows both globs at once, breadth first. Of all characters it tries those
// at which anything changes: where a range of either begins or ends, and those
// of the names to be avoided. The others behave like one of these.
func commonName(a, b glob, avoid []string) string {
	alphabet := alphabetOf(a, b, avoid)
	names := make(map[meeting]string) // how each state is reached
	var queue []meeting
	var reach func(meeting, string)
	reach = func(m meeting, name string) {
		if _, known := names[m]; known || len(name) > maxAltName {
			return
		}
		names[m] = name
		queue = append(queue, m)
		if a.star(m.a) { // it may end here
			reach(meeting{m.a + 1, m.b, m.prefix, m.free}, name)
		}
		if b.star(m.b) {
			reach(meeting{m.a, m.b + 1, m.prefix, m.free}, name)
		}
	}
	for reach(meeting{}, ""); len(queue) > 0; queue = queue[1:] {
		m := queue[0]
		name := names[m]
		if m.a == len(a) && m.b == len(b) && name != "" && !slices.Contains(avoid, name) {
			return name
		}
		if m.a == len(a) || m.b == len(b) {
			continue
		}
		for _, r := range alphabet {
			if a[m.a].matches(r) && b[m.b].matches(r) {
				next := meeting{a: a.after(m.a), b: b.after(m.b), free: m.free}
				next.follow(m.prefix, r, avoid)
				reach(next, name+string(r))
			}
		}
	}
	return ""
}

func (g glob) star(i int) bool { return i < len(g) && g[i].star }

// after is the position behind a character at position i: a star stays.
func (g glob) after(i int) int {
	if g[i].star {
		return i
	}
	return i + 1
}

// follow notes what has been read, for as long as that matters.
func (m *meeting) follow(prefix string, r rune, avoid []string) {
	if m.free {
		return
	}
	prefix += string(r)
	m.free = !slices.ContainsFunc(avoid, func(name string) bool { return strings.HasPrefix(name, prefix) })
	if !m.free {
		m.prefix = prefix
	}
}

// alphabetOf returns the characters that have to be tried. Digits and letters
// come first, for the sake of whoever reads the name.
func alphabetOf(a, b glob, avoid []string) []rune {
	bounds := []rune{'0', 'a', '!'}
	for _, g := range slices.Concat(a, b) {
		for _, x := range g.ranges {
			bounds = append(bounds, x.low, x.high+1)
		}
	}
	for _, r := range strings.Join(avoid, "") {
		bounds = append(bounds, r, r+1)
	}
	var alphabet []rune
	for _, r := range bounds {
		for r <= unicode.MaxRune && !inNames(r) {
			r++
		}
		if r <= unicode.MaxRune && !slices.Contains(alphabet, r) {
			alphabet = append(alphabet, r)
		}
	}
	return alphabet
}

// inNames tells the characters that an interface name may have; see checkName.
func inNames(r rune) bool {
	return r != '/' && r != ':' && !unicode.IsSpace(r) && !unicode.IsControl(r)
}
