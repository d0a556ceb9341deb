// SPDX-License-Identifier: Apache-2.0

package bpf

// Overflowed is the bit among the tags of a set that says that other flows of the
// set may be in their second one.
const Overflowed = 0x80

// Tags returns what stands for a set with these digests, 0 where a way is free, in
// the map of its tags, as src/tuple.h has it: seven bits for each way. Overflowed is
// for the caller to add.
func Tags(digests [DatapathWaysWAYS]uint64) uint64 {
	tags := uint64(0)
	for way, digest := range digests {
		if digest != 0 {
			tags |= ((digest&0x3ff)*127>>10 + 1) << (8 * way)
		}
	}
	return tags
}
