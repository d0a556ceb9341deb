// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"replypath/test/product"
)

func TestMain(m *testing.M) { product.Main(m) }
