// Package scenario runs the networks that people brought: each is first shown
// broken without replypath, then right with it.
package scenario

import (
	"testing"

	"replypath/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
