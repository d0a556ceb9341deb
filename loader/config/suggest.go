package config

import (
	"strings"

	"github.com/agext/levenshtein"
)

// nearest returns the field whose name is so close to an unknown key that a
// slip of the finger explains it, or "".
func nearest(key string, fields []field) string {
	if len(key) > longestKey {
		return ""
	}
	key = strings.ReplaceAll(strings.ToLower(key), "-", "_")
	best, distance := "", 1+len(key)/4
	for _, f := range fields {
		if d := levenshtein.Distance(key, f.name, nil); d <= distance {
			best, distance = f.name, d-1
		}
	}
	return best
}

// Nearest returns the one of the names that is so close to another that a slip of the finger explains it,
// empty for none.
func Nearest(name string, names []string) string {
	best, distance := "", 2
	for _, n := range names {
		if d := levenshtein.Distance(name, n, nil); d <= distance {
			best, distance = n, d-1
		}
	}
	return best
}

// placeOf says where a known key belongs that stands at a wrong place, "" for
// a key that there is not.
func placeOf(key string) string {
	for _, k := range Reference() {
		if k.Path == key {
			return "to the top level"
		}
		if parent, found := strings.CutSuffix(k.Path, "."+key); found {
			return "below " + strings.TrimSuffix(parent, "[]")
		}
	}
	return ""
}
