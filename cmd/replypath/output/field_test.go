// SPDX-License-Identifier: Apache-2.0

package output

import "testing"

// TestFittedSection: what matters least is left out first, and nothing where there is room, or where it never may be.
func TestFittedSection(t *testing.T) {
	same := func(s *string) string { return *s }
	fields := []Field[string]{
		NewField("A", 0, same), NewField("LEAST", 2, same), NewField("LESS", 1, func(*string) string { return "" }),
		NewField("ALWAYS", 0, func(*string) string { return "0123456789" }),
	}
	all := "\nA    LEAST  LESS  ALWAYS\näöü  äöü    -     0123456789\n"
	for width, want := range map[int]string{
		Unlimited: all,
		28:        all,
		27:        "\nA    LESS  ALWAYS\näöü  -     0123456789\n",
		20:        "\nA    ALWAYS\näöü  0123456789\n",
		1:         "\nA    ALWAYS\näöü  0123456789\n",
	} {
		p := Page{Width: width}
		FittedSection(&p, fields, []string{"äöü"})
		if p.String() != want {
			t.Errorf("in %d columns:\n%s", width, p.String())
		}
		if fits := Fits(fields, []string{"äöü"}, width); fits != (want == all) {
			t.Errorf("in %d columns: it fits: %t", width, fits)
		}
	}
	p := Page{Width: 20}
	FittedSection(&p, fields, nil)
	if p.String() != "" {
		t.Errorf("of nothing:\n%s", p.String())
	}
}

// TestWrappedSection: a text goes on in the next line, and a word that is too long stays whole.
func TestWrappedSection(t *testing.T) {
	same := func(s *string) string { return *s }
	for width, want := range map[int]string{
		Unlimited: "one two three-four five\n",
		23:        "one two three-four five\n",
		22:        "one two three-four\n  five\n",
		9:         "one two\n  three-four\n  five\n",
	} {
		p := Page{Width: width}
		WrappedSection(&p, "TEXTS", []string{"one two three-four five"}, same)
		if p.String() != "\nTEXTS\n"+want {
			t.Errorf("in %d columns:\n%s", width, p.String())
		}
	}
	p := Page{Width: 10}
	WrappedSection(&p, "NOTHING", nil, same)
	WrappedSection(&p, "TEXTS", []string{"a\x1bb", ""}, same)
	if p.String() != "\nTEXTS\na\\x1bb\n\n" {
		t.Errorf("%q", p.String())
	}
}
