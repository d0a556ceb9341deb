// SPDX-License-Identifier: Apache-2.0

// Package wire looks at what passes the cables of a host.
package wire
