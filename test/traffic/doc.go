// SPDX-License-Identifier: Apache-2.0

// Package traffic asks questions across a network, and answers them.
package traffic
