// SPDX-License-Identifier: Apache-2.0

// Package faults takes the production NIC of a server away, in every way that it
// goes, and wants the replication NIC not to notice.
package faults

import (
	"testing"

	"replypath/test/product"
	_ "replypath/test/product/inprocess"
)

func TestMain(m *testing.M) { product.Main(m) }
