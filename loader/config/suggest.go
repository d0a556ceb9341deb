package config

import "strings"

// nearest returns the field whose name is so close to an unknown key that a
// slip of the finger explains it, or "".
func nearest(key string, fields []field) string {
	if len(key) > longestKey {
		return ""
	}
	key = strings.ReplaceAll(strings.ToLower(key), "-", "_")
	best, distance := "", 1+len(key)/4
	for _, f := range fields {
		if d := editDistance(key, f.name); d <= distance {
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
		if d := editDistance(name, n); d <= distance {
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

// editDistance counts the insertions, deletions and replacements of bytes that
// turn a into b (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
