// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"fmt"
	"slices"
	"strings"
)

// Shrink makes a program that differs as small as it gets: it leaves out
// records, and writes 0 over bytes that do not matter. It compares at the end, as a program has to run within one tick.
func (r *Runner) Shrink(data []byte) ([]byte, error) {
	differs := func(candidate []byte) (bool, error) {
		d, err := r.Run(candidate, false)
		return d != nil, err
	}
	if ok, err := differs(data); err != nil || !ok {
		return data, err
	}
	for size := max(1, len(data)/recordSize/2); size >= 1; size /= 2 {
		for at := recordSize; at < len(data); {
			without := slices.Delete(slices.Clone(data), at, min(at+size*recordSize, len(data)))
			ok, err := differs(without)
			if err != nil {
				return data, err
			}
			if ok {
				data = without
			} else {
				at += size * recordSize
			}
		}
	}
	for at := range data {
		if data[at] == 0 {
			continue
		}
		plain := slices.Clone(data)
		plain[at] = 0
		ok, err := differs(plain)
		if err != nil {
			return data, err
		}
		if ok {
			data = plain
		}
	}
	return data, nil
}

// Explain shrinks a program that differs and says what happens in it.
func (r *Runner) Explain(data []byte) (small []byte, text string, err error) {
	if small, err = r.Shrink(data); err != nil {
		return small, "", err
	}
	d, err := r.Run(small, true)
	if err != nil {
		return small, "", err
	}
	if d == nil {
		return data, "the difference does not show again", nil
	}
	p := Decode(small)
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", p.Setup)
	for i, s := range p.Steps[:d.Step+1] {
		fmt.Fprintf(&b, "%2d %s\n", i, s)
	}
	b.WriteString(d.What)
	return small, b.String(), nil
}
