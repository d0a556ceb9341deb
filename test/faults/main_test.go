// SPDX-License-Identifier: Apache-2.0

// Package faults takes the production NIC of a server away, in every way that it
// goes, and wants the replication NIC not to notice.
package faults

import (
	"testing"

	"replypath/test/harness"
	_ "replypath/test/harness/inprocess"
)

func TestMain(m *testing.M) { harness.Main(m) }
