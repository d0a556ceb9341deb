// SPDX-License-Identifier: Apache-2.0

// Package fleet rolls replypath out to several hosts, by what operators have for that.
package fleet

import (
	"testing"

	"replypath/test/product"
)

func TestMain(m *testing.M) { product.Main(m) }
