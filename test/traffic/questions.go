// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"sync"
	"sync/atomic"
	"testing"

	"replypath/test/await"
	"replypath/test/topology"
)

// Families are both.
var Families = []topology.Family{topology.IPv4, topology.IPv6}

// EachQuestion runs a subtest for each family and kind of question.
func EachQuestion(t *testing.T, name string, run func(*testing.T, topology.Family, Kind)) {
	t.Helper()
	EachQuestionOf(t, Families, name, run)
}

// EachQuestionOf is EachQuestion for some families.
func EachQuestionOf(t *testing.T, families []topology.Family, name string, run func(*testing.T, topology.Family, Kind)) {
	t.Helper()
	for _, f := range families {
		for _, kind := range Kinds {
			t.Run(name+"/"+f.String()+"/"+string(kind), func(t *testing.T) { run(t, f, kind) })
		}
	}
}

// Ask asks one question, and wants the answer.
func Ask(t testing.TB, c *Conversation) {
	t.Helper()
	await.Must(t, c.Ask(await.Within(t, await.AnswerTime)))
}

// AskSizes asks questions of several sizes, and wants the answers.
func AskSizes(t testing.TB, c *Conversation) {
	t.Helper()
	for _, size := range c.Sizes() {
		if err := c.AskFor(await.Within(t, await.AnswerTime), size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

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
