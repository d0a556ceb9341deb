// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"maps"
	"slices"

	"github.com/vishvananda/netlink"
)

// Values is a Collector of the values that a function adds for a route, each kept
// once. Only these are kept: a table may hold a million routes, and they share a
// handful of gateways.
type Values[T comparable] struct {
	collect func(r Route, add func(T))
	found   map[int]map[T]struct{} // by family
}

// NewValues returns a collector without any. What collect keeps beside what it adds
// outlives a dump that is thrown away.
func NewValues[T comparable](collect func(r Route, add func(T))) *Values[T] {
	return &Values[T]{collect: collect, found: make(map[int]map[T]struct{})}
}

// Begin is Collector's.
func (v *Values[T]) Begin(family int) { v.found[family] = make(map[T]struct{}) }

// Collect is Collector's.
func (v *Values[T]) Collect(r Route) {
	of := v.found[r.Family]
	v.collect(r, func(value T) { of[value] = struct{}{} })
}

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
func Routes[T comparable](nl *netlink.Handle, collect func(r Route, add func(T))) ([]T, error) {
	values := NewValues(collect)
	if err := ReadRoutes(nl, values); err != nil {
		return nil, err
	}
	return values.List(), nil
}
