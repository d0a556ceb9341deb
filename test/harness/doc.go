// SPDX-License-Identifier: Apache-2.0

// Package harness runs the built product in networks of package topology, as an operator would, and reads what it
// tells. It is for tests only.
//
// A test package hands its TestMain to [Main], which runs the tests in a mount namespace with a bpf file system of its
// own: whatever is pinned vanishes with the test process, also when it is killed, and the host's pins are out of reach.
package harness
