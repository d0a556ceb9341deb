// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"sync"
	"sync/atomic"
	"testing"
)

// figures are what a test has seen, which it prints at its end.
type figures struct{ asked, answered, Right, Wrong atomic.Int64 }

// figuresByTest holds those of the tests that run.
var figuresByTest sync.Map

// figuresOf returns those of a test.
func FiguresOf(t testing.TB) *figures {
	f, known := figuresByTest.LoadOrStore(t, new(figures))
	if !known {
		t.Cleanup(func() {
			figuresByTest.Delete(t)
			f.(*figures).print(t)
		})
	}
	return f.(*figures)
}

func (f *figures) print(t testing.TB) {
	if asked := f.asked.Load(); asked > 0 {
		t.Logf("%d questions, %d answered", asked, f.answered.Load())
	}
	if right, wrong := f.Right.Load(), f.Wrong.Load(); right+wrong > 0 {
		t.Logf("%d frames left by the right interface, %d by another", right, wrong)
	}
}
