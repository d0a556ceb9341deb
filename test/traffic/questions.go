// SPDX-License-Identifier: Apache-2.0

package traffic

import (
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
