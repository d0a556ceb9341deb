// SPDX-License-Identifier: Apache-2.0

package main

// Bounds in nanoseconds over an empty program.
const (
	boundPass     = 30
	boundRedirect = 45
	boundRefresh  = 40
	boundUntaken  = 150
	// recordedStranger is a tenth more than a segment of a stranger, for which more places are
	// looked at than for any other, takes on a Xeon (Sapphire Rapids): 29 to 33 ns, where the
	// reference takes 52.
	recordedStranger = 36
	// recordedRedirect is the same of a reply: 42 to 46 ns there, of which an IPv6 one takes the most.
	recordedRedirect = 50
)

// Bounds of what few packets do, a third more than it takes or so; an answer and a header more, as these
// are copied.
const (
	boundHeld       = 50  // a lookup of the gateway's MAC in a hash map
	boundGate       = 50  // reads what connection tracking says
	boundMoved      = 190 // looks for a handshake, and writes a new way under the lock of its set
	boundFragment   = 70  // looks for the first one, or notes it
	boundExtension  = 110 // of IPv6: looks for the extension header as well
	boundOriginated = 170 // decided by its source with each packet
	boundUnanswered = 130 // copies headers, to find that nothing is due
	boundQuote      = 130 // reads two packets
	boundLinkDown   = 170 // asks the kernel for the link of every packet
	boundHeader     = 200 // and moves what stands before the packet
	boundAnswer     = 400 // and makes another packet of it, with a checksum
)

// Aims are what the project wants to reach, of what most packets do. The first packets of a
// connection, which do more than a redirect, have that of a redirect.
const (
	aimPass     = 20
	aimRedirect = 35
	aimRefresh  = 30
)
