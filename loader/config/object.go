// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// field is a key that a map may have, and what its value sets.
type field struct {
	name string
	set  func(value) error
}

// object sets the fields that the map names, and returns all errors together. Every other key is
// an error, and so is one that comes twice; a key without a value counts as absent.
func (v value) object(want string, fields []field) error {
	if v.node.Kind != yaml.MappingNode {
		return v.errorf("%s is not %s with the keys %s", v, want, list(fieldNames(fields)))
	}
	lines := make(map[string]int)
	var errs []error
	for i := 0; i+1 < len(v.node.Content) && !isFull(errs); i += 2 {
		errs = appendError(errs, v.setField(v.node.Content[i], v.node.Content[i+1], fields, lines))
	}
	return errors.Join(errs...)
}

// setField sets what one key names. lines are those of the keys before.
func (v value) setField(keyNode, valueNode *yaml.Node, fields []field, lines map[string]int) error {
	name, child, err := v.member(keyNode, valueNode)
	if err != nil {
		return err
	}
	known := slices.IndexFunc(fields, func(f field) bool { return f.name == name.node.Value })
	if known < 0 {
		return name.unknownKey(fields)
	}
	if first, twice := lines[name.node.Value]; twice {
		return name.errorf("is set twice, first on line %d: keep one", first)
	}
	lines[name.node.Value] = name.line
	if child.null() {
		return nil
	}
	return fields[known].set(child)
}

// member returns a key and its value, both with the path of the key.
func (v value) member(keyNode, valueNode *yaml.Node) (name, child value, err error) {
	name = v.at(keyNode, v.key)
	if name.node.Kind != yaml.ScalarNode {
		return name, child, name.errorf("%s is not a key: keys are plain words", name)
	}
	name.key = joinKey(v.key, name.node.Value)
	return name, v.at(valueNode, name.key), nil
}

// unknownKey says which key was probably meant, and which there are.
func (v value) unknownKey(fields []field) error {
	hint, names := ";", fieldNames(fields)
	if meant := nearest(v.node.Value, names); meant != "" {
		hint = ", did you mean " + meant + "?"
	}
	return v.errorf("unknown key%s allowed here: %s", hint, list(names))
}

func fieldNames(fields []field) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return names
}

const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
)

// consistsOf tells whether a text has no characters but those of a set.
func consistsOf(text, set string) bool { return strings.Trim(text, set) == "" }

// joinKey appends a key to a path of keys. One that is no plain word is quoted,
// so that it cannot break the line or pass for two keys.
func joinKey(parent, name string) string {
	if name == "" || len(name) > longestKey || !consistsOf(name, letters+digits+"_-") {
		name = quote(name)
	}
	if parent == "" {
		return name
	}
	return parent + "." + name
}
