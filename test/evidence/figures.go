// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"replypath/test/evidence/golog"
	"replypath/test/evidence/promise"
)

// What a cell of the page shows of a test at most.
const (
	mostWordings = 3
	mostChosen   = 12 // where the promise says what is worth showing
	mostRunes    = 300
)

var (
	// number is one by itself: no part of a name such as eth1, of an address, or of a sign behind it.
	number       = regexp.MustCompile(`(?:\d+(?:\.\d+)?(?:h|ms|m|µs|ns|s))+\b|\b\d+(?:\.\d+)?\b`)
	numberInText = regexp.MustCompile(`[\w.:/-]*\d[\w.µ:/-]*`)
	durations    = regexp.MustCompile(`\[((?:[\d.]+(?:ms|µs|s) ?)+)\]`)
	endpoints    = regexp.MustCompile(`(?:\d+(?:\.\d+){3}|\[[0-9a-f:]+\]):\d+`)
	macs         = regexp.MustCompile(`\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b`)
)

// wording is what logged lines have in common that differ in their numbers alone.
type wording struct {
	pieces []string // between the numbers
	ranges []extent
	times  int
}

// extent is from the least to the largest of the numbers at one place.
type extent struct {
	least, most         float64
	leastText, mostText string
}

func (e extent) String() string {
	if e.leastText == e.mostText {
		return e.leastText
	}
	number, unit, _ := strings.Cut(e.leastText, " ")
	if _, other, _ := strings.Cut(e.mostText, " "); unit == other {
		return number + " to " + e.mostText
	}
	return e.leastText + " to " + e.mostText
}

// with is the extent of both.
func (e extent) with(other extent) extent {
	if other.least < e.least {
		e.least, e.leastText = other.least, other.leastText
	}
	if other.most > e.most {
		e.most, e.mostText = other.most, other.mostText
	}
	return e
}

// figuresOf is what a test has logged, shortened: lines that differ in their numbers alone become one, with the least
// and the largest. Of a regular expression that is not empty what it matches is shown, also of lines below the first.
// What is general is shown where there is nothing else, added up.
func (r *results) figuresOf(test promise.Test, only *regexp.Regexp) string {
	chosen := only.String() != ""
	var own, general []golog.Line
	for _, o := range r.below(test) {
		for _, line := range o.Lines {
			if chosen {
				line.Text = only.FindString(line.Text)
			}
			switch {
			case line.General:
				general = append(general, line)
			case o.Result != golog.Skipped && line.Text != "" && (chosen || !line.Further):
				own = append(own, line)
			}
		}
	}
	switch {
	case chosen:
		return shorten(merge(own), mostChosen)
	case len(own) > 0:
		return shorten(merge(own), mostWordings)
	default:
		return shorten(addUp(general), mostWordings)
	}
}

// skipReason is what a skipped test, or a skipped subtest of it, has said last.
func (r *results) skipReason(test promise.Test) (reason string) {
	for _, o := range r.below(test) {
		if o.Result == golog.Skipped && len(o.Lines) > 0 {
			reason = o.Lines[len(o.Lines)-1].Text
		}
	}
	return shorten([]string{reason}, 1)
}

// merge makes one text of the lines of each wording.
func merge(lines []golog.Line) (texts []string) {
	var all []*wording
	for _, line := range lines {
		w := wordingOf(line.Text)
		i := slices.IndexFunc(all, func(known *wording) bool { return slices.Equal(known.pieces, w.pieces) })
		if i < 0 {
			all = append(all, w)
			continue
		}
		all[i].times++
		for place, e := range w.ranges {
			all[i].ranges[place] = all[i].ranges[place].with(e)
		}
	}
	for _, w := range all {
		text := w.String()
		if w.times > 1 {
			text = fmt.Sprintf("%d times: %s", w.times, text)
		}
		texts = append(texts, text)
	}
	return texts
}

func (w *wording) String() string {
	var text strings.Builder
	for i, piece := range w.pieces {
		text.WriteString(piece)
		if i < len(w.ranges) {
			text.WriteString(w.ranges[i].String())
		}
	}
	return text.String()
}

// wordingOf takes a line apart. A list of durations is one number, from the least to the largest.
func wordingOf(text string) *wording {
	text = endpoints.ReplaceAllString(macs.ReplaceAllString(text, "a MAC"), "a port")
	w, begin := &wording{times: 1}, 0
	for _, at := range numbersIn(text) {
		w.pieces = append(w.pieces, text[begin:at.begin])
		w.ranges = append(w.ranges, at.extent)
		begin = at.end
	}
	w.pieces = append(w.pieces, text[begin:])
	return w
}

// place is where a number stands in a text.
type place struct {
	begin, end int
	extent
}

// numbersIn returns the numbers of a text in their order.
func numbersIn(text string) (all []place) {
	lists := durations.FindAllStringSubmatchIndex(text, -1)
	for _, at := range lists {
		var whole extent
		for i, d := range strings.Fields(text[at[2]:at[3]]) {
			if e, ok := extentOf(d); ok && i > 0 {
				whole = whole.with(e)
			} else {
				whole = e
			}
		}
		all = append(all, place{at[0], at[1], whole})
	}
	for _, at := range numberInText.FindAllStringIndex(text, -1) {
		end := at[0] + len(strings.TrimRight(text[at[0]:at[1]], ".:/-"))
		inList := slices.ContainsFunc(lists, func(list []int) bool { return list[0] <= at[0] && at[0] < list[1] })
		if e, ok := extentOf(text[at[0]:end]); ok && !inList {
			all = append(all, place{at[0], end, e})
		}
	}
	slices.SortFunc(all, func(a, b place) int { return a.begin - b.begin })
	return all
}

// extentOf reads a number or a duration, which is rounded.
func extentOf(text string) (extent, bool) {
	if number.FindString(text) != text {
		return extent{}, false
	}
	if value, err := strconv.ParseFloat(text, 64); err == nil {
		return extent{value, value, text, text}, true
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return extent{}, false
	}
	text = rounded(d)
	return extent{float64(d), float64(d), text, text}, true
}

func rounded(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return strconv.FormatFloat(d.Round(10*time.Millisecond).Seconds(), 'f', -1, 64) + " s"
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	default:
		return strconv.FormatFloat(float64(d.Round(10*time.Microsecond))/float64(time.Millisecond), 'f', -1, 64) + " ms"
	}
}

// addUp adds the numbers of the lines of each wording, for each subtest of the first level.
func addUp(lines []golog.Line) (texts []string) {
	var all []*wording
	var parts []string
	for _, line := range lines {
		w, part := wordingOf(line.Text), ""
		if names := strings.Split(line.Test, "/"); len(names) > 1 {
			part = names[1] + ": "
		}
		w.pieces[0] = part + w.pieces[0]
		i := slices.IndexFunc(all, func(known *wording) bool { return slices.Equal(known.pieces, w.pieces) })
		if i < 0 {
			all, parts = append(all, w), append(parts, part)
			continue
		}
		for place, e := range w.ranges {
			sum := strconv.FormatFloat(all[i].ranges[place].least+e.least, 'f', -1, 64)
			all[i].ranges[place] = extent{all[i].ranges[place].least + e.least, 0, sum, sum}
		}
	}
	for i, w := range all {
		if i > 0 && parts[i] == parts[i-1] {
			texts[len(texts)-1] += ", " + strings.TrimPrefix(w.String(), parts[i])
			continue
		}
		texts = append(texts, w.String())
	}
	return texts
}

// shorten leaves out what a cell has no room for.
func shorten(texts []string, most int) string {
	more := len(texts) - most
	if more > 0 {
		texts = texts[:most]
	}
	var short []string
	for _, text := range texts {
		if utf8.RuneCountInString(text) > mostRunes {
			runes := []rune(text)[:mostRunes]
			text = strings.TrimRight(string(runes), " ,;:") + " ..."
		}
		if text != "" {
			short = append(short, text)
		}
	}
	if more > 0 {
		short = append(short, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(short, "; ")
}
