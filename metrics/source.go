// SPDX-License-Identifier: Apache-2.0

package metrics

import "time"

// Source is where the figures come from. Its methods are called from several
// goroutines at once.
type Source interface {
	// Snapshot reads every figure. An error fails the scrape as a whole.
	Snapshot() (Samples, error)
	// Lacking says, a line each, what is not as it was told to be: managed interfaces that lack a program on one of their
	// hooks, those that are configured by name and do not exist, a configuration that was refused. What is wrong with the
	// host and with peers does not count. It is asked for by /healthz, so it should cost little.
	Lacking() ([]string, error)
	// Passed tells when the loop that keeps all this went round last. It waits for nobody.
	Passed() time.Time
}
