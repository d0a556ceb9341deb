// SPDX-License-Identifier: Apache-2.0

package hostmaps

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"
)

// Mirror knows what a map holds, so that only what differs is written. Nobody
// else writes such entries.
//
// In an array, a zero value stands for an entry that is not there.
type Mirror[K, V comparable] struct {
	name   string
	table  *ebpf.Map
	actual map[K]V
	writes int // that were done so far
}

// readMirror makes a mirror of the map.
func readMirror[K, V comparable](to **Mirror[K, V], name string, table *ebpf.Map) error {
	m := &Mirror[K, V]{name: name, table: table}
	*to = m
	return m.Read()
}

// Read looks at what the map holds. An error names the map.
func (m *Mirror[K, V]) Read() error {
	m.actual = make(map[K]V)
	read := m.readHash
	if m.isArray() {
		read = m.readArray
	}
	if err := read(); err != nil {
		return fmt.Errorf("read map %s: %w", m.name, err)
	}
	return nil
}

func (m *Mirror[K, V]) isArray() bool { return m.table.Type() == ebpf.Array }

func (m *Mirror[K, V]) readHash() error {
	var (
		key   K
		value V
	)
	entries := m.table.Iterate()
	for entries.Next(&key, &value) {
		m.actual[key] = value
	}
	return entries.Err()
}

// batch is how many entries of an array are read by one system call.
const batch = 1024

func (m *Mirror[K, V]) readArray() error {
	var (
		cursor ebpf.MapBatchCursor
		none   V
		keys   = make([]K, batch)
		values = make([]V, batch)
	)
	for {
		count, err := m.table.BatchLookup(&cursor, keys, values, nil)
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return err
		}
		for i := range count {
			if values[i] != none {
				m.actual[keys[i]] = values[i]
			}
		}
		if last {
			return nil
		}
	}
}

// part returns a mirror of some of the entries, which write no others.
func (m *Mirror[K, V]) part(has func(K) bool) *Mirror[K, V] {
	p := *m
	p.actual = maps.Clone(m.actual)
	maps.DeleteFunc(p.actual, func(key K, _ V) bool { return !has(key) })
	return &p
}

// Get returns the value of a key as the map was read or written last; known, whether there is one.
func (m *Mirror[K, V]) Get(key K) (value V, known bool) {
	value, known = m.actual[key]
	return value, known
}

// Sync makes the map hold what is desired, no more and no less. New entries come
// before old ones go. It goes on after errors, counts them and tells the first of each kind.
func (m *Mirror[K, V]) Sync(desired map[K]V) error {
	return errors.Join(m.enter(desired), m.drop(desired))
}

// enter is the first half of Sync: what is desired is there, beside what was.
func (m *Mirror[K, V]) enter(desired map[K]V) error {
	var failures failures
	for key, value := range desired {
		if old, present := m.actual[key]; !present || old != value {
			failures.note(m.Put(key, value))
		}
	}
	return m.explain(failures)
}

// drop is the other half: nothing else is there.
func (m *Mirror[K, V]) drop(desired map[K]V) error {
	var failures failures
	for key := range m.actual {
		if _, wanted := desired[key]; !wanted {
			failures.note(m.remove(key))
		}
	}
	return m.explain(failures)
}

func (m *Mirror[K, V]) explain(failures failures) error {
	if failures.count == 0 {
		return nil
	}
	return fmt.Errorf("%d entries of map %s (it takes %d): %w",
		failures.count, m.name, m.table.MaxEntries(), failures.first)
}

// failures are errors of which one is enough to know.
type failures struct {
	first error
	count int
}

func (f *failures) note(err error) {
	if err == nil {
		return
	}
	f.count++
	if f.first == nil {
		f.first = err
	}
}

// Put writes one entry.
func (m *Mirror[K, V]) Put(key K, value V) error {
	if err := m.table.Put(key, value); err != nil {
		return err
	}
	m.actual[key] = value
	m.writes++
	return nil
}

func (m *Mirror[K, V]) remove(key K) error {
	var err error
	if m.isArray() {
		var none V
		err = m.table.Put(key, none)
	} else {
		err = m.table.Delete(key)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	delete(m.actual, key)
	m.writes++
	return nil
}

// backup returns what puts the map back as it is now.
func (m *Mirror[K, V]) backup() func() error {
	before := maps.Clone(m.actual)
	return func() error { return m.Sync(before) }
}
