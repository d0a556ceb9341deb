// SPDX-License-Identifier: Apache-2.0

// Package fuzz turns bytes into settings and sequences of packets, runs them
// through the datapath and through the model of it, and says where the two
// differ.
package fuzz

import "math/rand/v2"

// recordSize is the size of what one step, or the setup, is made of. Every value
// of every byte means something, so that any input is a program, and a program
// stays one when records are left out or bytes become 0: 0 is the plainest.
const recordSize = 16

// maxRecords keeps the tables from overflowing, which the model does not know.
const maxRecords = 64

type record [recordSize]byte

// Program is a setup and what happens under it.
type Program struct {
	Setup Setup
	Steps []Step
}

// Decode reads a program. What is missing is 0.
func Decode(data []byte) Program {
	var setup record
	rest := data[copy(setup[:], data):]
	p := Program{Setup: decodeSetup(setup)}
	for count := 0; len(rest) > 0 && count < maxRecords; count++ {
		var r record
		rest = rest[copy(r[:], rest):]
		p.Steps = append(p.Steps, decodeSteps(r, p.Setup.bare < devices)...)
	}
	return p
}

// Random makes a program of that many records. Most of its packets belong to a
// few conversations, and most are plain.
func Random(rng *rand.Rand, records int) []byte {
	data := make([]byte, 0, (records+1)*recordSize)
	data = append(data, randomSetup(rng)...)
	var conversations [3][2]byte
	for i := range conversations {
		conversations[i] = [2]byte{byte(rng.Uint32()), byte(rng.Uint32())}
		if i > 0 { // between ordinary addresses
			conversations[i][0] = byte(rng.IntN(2) | rng.IntN(6)<<1 | rng.IntN(4)<<4)
		}
	}
	if rng.IntN(4) == 0 { // the last but one once more, with any address of the host's side
		conversations[2] = conversations[1]
		conversations[2][0] = conversations[1][0]&0x0f | byte(rng.IntN(16))<<4
	}
	for range records {
		r := make([]byte, recordSize)
		for i := range r {
			r[i] = byte(rng.Uint32())
		}
		if rng.IntN(8) != 0 {
			c := conversations[rng.IntN(len(conversations))]
			r[atPeers], r[atPorts] = c[0], c[1]
		}
		for _, at := range []int{atShape, atTag, atSegments, atDamage} {
			if rng.IntN(4) != 0 {
				r[at] = 0
			}
		}
		data = append(data, r...)
	}
	return data
}

// randomSetup leaves most settings as they are by default.
func randomSetup(rng *rand.Rand) []byte {
	setup := make([]byte, recordSize)
	for i := range setup {
		if rng.IntN(3) == 0 {
			setup[i] = byte(rng.Uint32())
		}
	}
	return setup
}
