// SPDX-License-Identifier: Apache-2.0

// Package fuzz turns bytes into settings and sequences of packets, runs them
// through the datapath and through the model of it, and says where the two
// differ.
package fuzz
