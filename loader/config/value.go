// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is a node of the document together with where it stands, so that every
// complaint about it can say so.
type value struct {
	node *yaml.Node // never an alias
	file string
	line int
	key  string // path of keys, as in "interfaces[0].next_hop"; empty at the top
}

// at returns the value of a node below v. An alias stands for what it names.
func (v value) at(node *yaml.Node, key string) value {
	child := value{node: node, file: v.file, line: node.Line, key: key}
	for child.node.Kind == yaml.AliasNode {
		child.node = child.node.Alias
	}
	return child
}

// errorf blames the value.
func (v value) errorf(format string, args ...any) error {
	return &Error{File: v.file, Line: v.line, Key: v.key, Message: fmt.Sprintf(format, args...)}
}

// null tells a key without a value, which counts as absent.
func (v value) null() bool {
	return v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!null"
}

// String describes the value for an error message: strings in quotes, other
// scalars bare, so that 5 and "5" differ.
func (v value) String() string {
	switch {
	case v.node.Kind == yaml.MappingNode:
		return "a map"
	case v.node.Kind == yaml.SequenceNode:
		return "a list"
	case v.null():
		return "an empty value"
	case v.node.ShortTag() == "!!str":
		return quote(v.node.Value)
	}
	return strings.Trim(quote(v.node.Value), `"`)
}

// text returns a string; want describes what it has to be.
func (v value) text(want string) (string, error) {
	if v.node.Kind != yaml.ScalarNode || v.node.ShortTag() != "!!str" {
		return "", v.errorf("%s is not %s", v, want)
	}
	return v.node.Value, nil
}

// parsedBy returns what reads a string; want describes the string.
func parsedBy[T any](want string, parse func(text string) (T, error)) func(value) (T, error) {
	return func(v value) (result T, err error) {
		text, err := v.text(want)
		if err != nil {
			return result, err
		}
		if result, err = parse(text); err != nil {
			err = v.errorf("%v", err)
		}
		return result, err
	}
}

// parsed sets what parse makes of a string; want describes the string.
func parsed[T any](target *T, want string, parse func(text string) (T, error)) func(value) error {
	return func(v value) error {
		result, err := parsedBy(want, parse)(v)
		if err == nil {
			*target = result
		}
		return err
	}
}

// checked sets a string that check has no error for.
func checked(target *string, want string, check func(text string) error) func(value) error {
	return parsed(target, want, func(text string) (string, error) { return text, check(text) })
}

// word returns a scalar as it is written, for values where 6 and "6" or true
// and "true" mean the same.
func (v value) word() (string, bool) {
	if v.node.Kind != yaml.ScalarNode || v.null() {
		return "", false
	}
	return v.node.Value, true
}

// integer returns a whole number from low to high.
func (v value) integer(low, high int64) (int64, error) {
	var number int64
	isInteger := v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!int"
	if !isInteger || v.node.Decode(&number) != nil || number < low || number > high {
		return 0, v.errorf("%s is not a whole number from %d to %d", v, low, high)
	}
	return number, nil
}

// list calls each for every item, and returns all errors together; want describes the list for
// whoever wrote something else.
func (v value) list(want string, each func(item value) error) error {
	if v.node.Kind != yaml.SequenceNode {
		return v.errorf("%s is not %s", v, want)
	}
	var errs []error
	for i, node := range v.node.Content {
		if errs = appendError(errs, each(v.at(node, fmt.Sprintf("%s[%d]", v.key, i)))); isFull(errs) {
			break
		}
	}
	return errors.Join(errs...)
}

// listOf sets a list whose items read makes, at most so many, each once; want describes the list, and remedy what to do where it
// is longer.
func listOf[T comparable](v value, target *[]T, want string, most int, remedy string, read func(item value) (T, error)) error {
	*target = []T{}
	if err := v.atMost(most, remedy); err != nil {
		return err
	}
	return v.list(want, func(item value) error {
		one, err := read(item)
		switch {
		case err != nil:
			return err
		case slices.Contains(*target, one):
			return item.errorf("%s is listed twice: keep one", item)
		}
		*target = append(*target, one)
		return nil
	})
}

// atMost blames the first item that is too many.
func (v value) atMost(most int, remedy string) error {
	if v.node.Kind != yaml.SequenceNode || len(v.node.Content) <= most {
		return nil
	}
	item := v.at(v.node.Content[most], fmt.Sprintf("%s[%d]", v.key, most))
	return item.errorf("is one entry too many, at most %d are possible: %s", most, remedy)
}

// oneOf sets a string to one of the words that are allowed. YAML's own true and
// false may be among them.
func oneOf[T ~string](target *T, allowed []T) func(value) error {
	return func(v value) error {
		word, ok := v.word()
		if !ok || !slices.Contains(allowed, T(word)) {
			return v.errorf("%s is not one of %s", v, list(allowed))
		}
		*target = T(word)
		return nil
	}
}

var booleans = []string{"true", "false"}

func boolean(target *bool) func(value) error {
	return func(v value) error {
		if v.node.ShortTag() != "!!bool" || v.node.Decode(target) != nil {
			return v.errorf("%s is not one of %s", v, list(booleans))
		}
		return nil
	}
}

// quote puts foreign text into quotes, escaped to stay on one line and short
// enough to be read.
func quote(text string) string {
	const longest = 60
	if runes := []rune(text); len(runes) > longest {
		text = string(runes[:longest]) + "..."
	}
	return strconv.Quote(text)
}

// list joins words for a message.
func list[T ~string](words []T) string {
	texts := make([]string, len(words))
	for i, word := range words {
		texts[i] = string(word)
	}
	return strings.Join(texts, ", ")
}
