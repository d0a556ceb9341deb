// SPDX-License-Identifier: Apache-2.0

// Package await is how tests wait, and fail.
package await
