// SPDX-License-Identifier: Apache-2.0

// Package product runs the program under test in a sandbox, and reads what it says.
package product
