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
)

// Aims are what the project wants to reach, of what most packets do. The first packets of a
// connection, which do more than a redirect, have that of a redirect.
const (
	aimPass     = 20
	aimRedirect = 35
	aimRefresh  = 30
)
