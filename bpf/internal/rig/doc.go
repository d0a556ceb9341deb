// SPDX-License-Identifier: Apache-2.0

// Package rig runs the datapath's programs by BPF_PROG_TEST_RUN: it makes a
// network namespace with real devices, loads the programs, fills their maps as
// the loader would, and builds the packets. Tests and benchmarks share it.
package rig
