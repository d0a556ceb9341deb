// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder sets a configuration from the nodes of a document, and gathers what is wrong with it. The library's own
// knows neither the path of a key nor what else is allowed, and leaves out a map with a key that comes twice.
type decoder struct {
	file string
	errs []error
}

// value is a node of the document together with where it stands, so that every
// complaint about it can say so.
type value struct {
	*yaml.Node // never an alias
	line       int
	key        string // path of keys, as in "interfaces[0].next_hop"; empty at the top
}

// valueOf returns what stands below a key. An alias stands for what it names.
func valueOf(node *yaml.Node, key string) value {
	line := node.Line
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return value{node, line, key}
}

var indices = regexp.MustCompile(`\[\d+\]`)

func (v value) rule() rule { return rules[indices.ReplaceAllString(v.key, "[]")] }

// blame adds what is wrong with a value.
func (d *decoder) blame(v value, format string, args ...any) {
	d.errs = append(d.errs, &Error{File: d.file, Line: v.line, Key: v.key, Message: fmt.Sprintf(format, args...)})
}

// set sets a target from a value, as far as it can be read.
func (d *decoder) set(target reflect.Value, v value) {
	switch rule := v.rule(); {
	case rule.read != nil && (rule.want == "" || v.Kind == yaml.ScalarNode && !isNull(v.Node)):
		if result, err := rule.read(v.Node); err != nil {
			d.blame(v, "%v", err)
		} else {
			target.Set(reflect.ValueOf(result))
		}
	case target.Kind() == reflect.Struct:
		d.setObject(target, v, rule)
	default:
		d.setList(target, v, rule)
	}
}

// setList sets a list to the items that are right.
func (d *decoder) setList(target reflect.Value, v value, rule rule) {
	target.Set(reflect.MakeSlice(target.Type(), 0, 0))
	if v.Kind != yaml.SequenceNode {
		d.blame(v, "%s is not %s", describe(v.Node), rule.want)
		return
	}
	if len(v.Content) == 0 && rule.empty != "" {
		d.blame(v, "an empty list %s", rule.empty)
	}
	lines := make(map[any]int) // of the items before
	for i := 0; i < len(v.Content) && len(d.errs) <= mostErrors; i++ {
		item := valueOf(v.Content[i], fmt.Sprintf("%s[%d]", v.key, i))
		if i == rule.most {
			d.blame(item, "is one entry too many, at most %d are possible: %s", rule.most, rule.remedy)
			return
		}
		before, read := len(d.errs), reflect.New(target.Type().Elem()).Elem()
		if d.set(read, item); len(d.errs) > before {
			continue
		}
		identity, name := read.Interface(), describe(item.Node)
		if settings, ok := identity.(Interface); ok {
			identity, name = settings.Name, quote(settings.Name)
		}
		if first := lines[identity]; rule.once && first > 0 {
			d.blame(item, "%s is listed twice, first on line %d: keep one", name, first)
			continue
		}
		lines[identity] = item.line
		target.Set(reflect.Append(target, read))
	}
}

// setObject sets the fields that a map names. Every other key is an error, and so is one that comes twice; a key
// without a value counts as absent.
func (d *decoder) setObject(target reflect.Value, v value, rule rule) {
	names, fields := keysOf(target)
	if v.Kind != yaml.MappingNode {
		d.blame(v, "%s is not %s with the keys %s", describe(v.Node), cmp.Or(rule.want, "a map"), strings.Join(names, ", "))
		return
	}
	before, lines, set := len(d.errs), make(map[string]int), make(map[string]value)
	for i := 0; i+1 < len(v.Content) && len(d.errs) <= mostErrors; i += 2 {
		name := valueOf(v.Content[i], v.key)
		if name.Kind != yaml.ScalarNode {
			d.blame(name, "%s is not a key: keys are plain words", describe(name.Node))
			continue
		}
		name.key = joinKey(v.key, name.Value)
		switch field, known := fields[name.Value]; {
		case !known:
			d.blame(name, "unknown key%s allowed here: %s", hint(name.Value, names), strings.Join(names, ", "))
		case lines[name.Value] > 0:
			d.blame(name, "is set twice, first on line %d: keep one", lines[name.Value])
		default:
			lines[name.Value] = name.line
			if child := valueOf(v.Content[i+1], name.key); !isNull(child.Node) {
				set[name.Value] = child
				d.set(field, child)
			}
		}
	}
	d.finish(target.Addr().Interface(), v, set, len(d.errs) == before)
}

// finish checks what keys say together. set are the keys that have a value, right tells whether they are as they should be.
func (d *decoder) finish(target any, v value, set map[string]value, right bool) {
	switch target := target.(type) {
	case *Config:
		if globs := target.globs(); globs > maxGlobs {
			d.blame(set["interfaces"], "has %d globs, at most %d are possible: use wider ones", globs, maxGlobs)
		}
	case *Interface:
		if _, named := set["name"]; !named {
			d.blame(v, `has no name: add one such as "name: eth1"`)
		}
		if target.NextHop == "" {
			target.NextHop = NextHopAuto
		}
	case *Exclusion:
		if err := target.check(); right && err != nil {
			d.blame(v, "%v", err)
		}
	case *Metrics:
		if path, isSet := set["web_config_file"]; isSet {
			target.Origin = Origin{File: d.file, Line: path.line}
		}
	}
}

// keysOf returns the keys of a map that sets a struct, in the order in which messages name them, and the field of each.
func keysOf(object reflect.Value) (names []string, fields map[string]reflect.Value) {
	fields = make(map[string]reflect.Value)
	for _, field := range reflect.VisibleFields(object.Type()) {
		below := len(field.Index) > 1 && object.Type().Field(field.Index[0]).Tag.Get("yaml") != ""
		if name := field.Tag.Get("yaml"); name != "" && !below {
			names = append(names, name)
			fields[name] = object.FieldByIndex(field.Index)
		}
	}
	return names, fields
}

// plainKey is what a key may be without quotes.
var plainKey = regexp.MustCompile(fmt.Sprintf("^[A-Za-z0-9_-]{1,%d}$", longestKey))

// joinKey appends a key to a path of keys. One that is no plain word is quoted,
// so that it cannot break the line or pass for two keys.
func joinKey(parent, name string) string {
	if !plainKey.MatchString(name) {
		name = quote(name)
	}
	if parent == "" {
		return name
	}
	return parent + "." + name
}
