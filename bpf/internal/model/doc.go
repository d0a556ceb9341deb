// SPDX-License-Identifier: Apache-2.0

// Package model decides what becomes of a packet, as the datapath should: in
// plain Go, written from what the project says that it does and not from the C,
// so that the two can be held against each other. It keeps flows by tuple in Go
// maps that are never full.
//
// Where several rules apply and nothing says which of them is named in the
// counters, every one of them is right: see Witness.
package model
