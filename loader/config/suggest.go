// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"

	"github.com/agext/levenshtein"
)

// longestKey is beyond any key that there is, and still fit to be read.
const longestKey = 40

// hint ends "unknown key": with the key that is so close that a slip of the finger explains it, if there is one.
func hint(key string, keys []string) string {
	meant := ""
	if len(key) <= longestKey {
		meant = within(1+len(key)/4, strings.ReplaceAll(strings.ToLower(key), "-", "_"), keys)
	}
	if meant == "" {
		return ";"
	}
	return ", did you mean " + meant + "?"
}

// Nearest returns the one of the names that is so close to another that a slip of the finger explains it,
// empty for none.
func Nearest(name string, names []string) string { return within(2, name, names) }

// within returns the closest of the words that are at most so many changes of a letter away.
func within(distance int, word string, words []string) string {
	best := ""
	for _, w := range words {
		if d := levenshtein.Distance(word, w, nil); d <= distance {
			best, distance = w, d-1
		}
	}
	return best
}
