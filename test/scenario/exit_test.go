// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"net"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// exit is how answers leave a server: by one of its NICs, to a MAC.
type exit struct {
	nics []*topology.Interface // all of the server's that answers could leave by
	by   *topology.Interface
	to   net.HardwareAddr
}

// wantAnswers asks a few questions and wants all of the answers, and every one of
// them by this exit. Answers are seen as they leave the server, which may be behind
// a translation.
func (e exit) wantAnswers(t *testing.T, c *harness.Conversation, answers topology.Filter) {
	t.Helper()
	exits := harness.TapAll(t, e.nics...)
	harness.AskSizes(t, c)
	harness.End(t, c, exits.At(e.by), answers)
	exits.Want(c.String(), answers, e.by, e.to)
}

// wantQuestions has the server ask somebody, and wants all of its questions by this exit.
func (e exit) wantQuestions(t *testing.T, c *harness.Conversation) {
	t.Helper()
	exits := harness.TapAll(t, e.nics...)
	harness.AskSizes(t, c)
	exits.Want("what the server opened: "+c.String(), c.Questions(), e.by, e.to)
}

// want wants frames, and every one of them by this exit.
func (e exit) want(seen *harness.Exits, what string, frames topology.Filter) {
	seen.Want(what, frames, e.by, e.to)
}

// askDatagram asks an echo server by a connected UDP socket.
func askDatagram(t *testing.T, conn net.Conn) {
	t.Helper()
	harness.Must(t, conn.SetDeadline(time.Now().Add(harness.AnswerTime)))
	_, err := conn.Write([]byte("question"))
	harness.Must(t, err)
	_, err = conn.Read(make([]byte, 100))
	harness.Must(t, err)
}

// wantLost asks in vain: the answers leave by this exit, but never come to who
// asked.
func (e exit) wantLost(t *testing.T, c *harness.Conversation, answers topology.Filter) {
	t.Helper()
	exits := harness.TapAll(t, e.nics...)
	if err := harness.AskUntilLost(t, c, exits.At(e.by), answers); err == nil {
		t.Errorf("%s was answered, although its answer left the wrong way", c)
	}
	exits.Want(c.String(), answers, e.by, e.to)
}

// wantNoAnswer asks in vain: the question comes in by one of the server's NICs, the
// first, and is dropped there, so that no answer leaves by any.
func wantNoAnswer(t *testing.T, c *harness.Conversation, nics ...*topology.Interface) {
	t.Helper()
	exits := harness.TapAll(t, nics...)
	if err := harness.AskUntilLost(t, c, exits.At(nics[0]), c.Questions()); err == nil {
		t.Errorf("%s was answered", c)
	}
	for _, nic := range nics {
		if left := exits.Left(nic, c.Answers()); len(left) > 0 {
			t.Errorf("%s: by %s left %s", c, nic.Name, harness.Describe(left))
		}
	}
}

// ipv4 is that family alone.
var ipv4 = harness.Families[:1]
