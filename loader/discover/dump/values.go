// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"maps"
	"slices"
)

// Values is a Collector of the values that a function adds for a route, each kept
// once. Only these are kept: a table may hold a million routes, and they share a
// handful of gateways.
type Values[T comparable] struct {
	collect func(r *Route, add func(T))
	found   map[int]map[T]struct{} // by family
	news    bool
}

// NewValues returns a collector without any. What collect keeps beside what it adds
// outlives a dump that is thrown away.
func NewValues[T comparable](collect func(r *Route, add func(T))) *Values[T] {
	return &Values[T]{collect: collect, found: make(map[int]map[T]struct{})}
}

// Begin is Collector's.
func (v *Values[T]) Begin(family int) { v.found[family] = make(map[T]struct{}) }

// News tells whether a value has come since it was asked last.
func (v *Values[T]) News() bool {
	news := v.news
	v.news = false
	return news
}

// Has tells whether a function is true of a value.
func (v *Values[T]) Has(is func(T) bool) bool {
	for _, of := range v.found {
		for value := range of {
			if is(value) {
				return true
			}
		}
	}
	return false
}

// Equal tells whether two have the same values.
func (v *Values[T]) Equal(other *Values[T]) bool {
	return maps.EqualFunc(v.found, other.found, func(a, b map[T]struct{}) bool { return maps.Equal(a, b) })
}

// Collect is Collector's.
func (v *Values[T]) Collect(r *Route) {
	v.collect(r, func(value T) {
		if _, isKnown := v.found[r.Family][value]; !isKnown {
			v.add(r.Family, value)
		}
	})
}

func (v *Values[T]) add(family int, value T) {
	if v.found[family] == nil {
		v.Begin(family)
	}
	v.found[family][value], v.news = struct{}{}, true
}

// Take replaces the values of a family by those of another collector.
func (v *Values[T]) Take(family int, from *Values[T]) { v.found[family] = from.found[family] }

// List returns the values, in no particular order.
func (v *Values[T]) List() []T {
	all := make(map[T]struct{})
	for _, of := range v.found {
		maps.Copy(all, of)
	}
	return slices.AppendSeq(make([]T, 0, len(all)), maps.Keys(all))
}

// Routes is ReadRoutes for Values: it returns each value that collect has added once,
// in no particular order.
func Routes[T comparable](collect func(r *Route, add func(T))) ([]T, error) {
	values := NewValues(collect)
	if err := ReadRoutes(values); err != nil {
		return nil, err
	}
	return values.List(), nil
}
