// SPDX-License-Identifier: Apache-2.0

// Package bigtables has the product on hosts with large routing tables that change all the time, as routers
// with BGP have them, and with hundreds of interfaces that come and go, as container hosts have them.
package bigtables

import (
	"testing"

	"replypath/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
