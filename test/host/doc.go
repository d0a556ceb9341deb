// SPDX-License-Identifier: Apache-2.0

// Package host is what else runs on a host, and what is left on it.
package host
