// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"replypath/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
