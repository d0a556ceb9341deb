// SPDX-License-Identifier: Apache-2.0

// Package metrics serves what the datapath counted to Prometheus, and whether
// it is in place to whoever watches the host.
//
// Nothing is kept here: every scrape reads the present figures through a
// [Source], so that they are those of the BPF maps, also after a restart of the
// process. A figure that cannot be read fails the scrape; a partial answer would
// look like counters that fell.
package metrics

//go:generate env UPDATE_DOCS=1 go test -count=1 -run ^TestReferenceIsCurrent$ .
