// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"encoding/binary"
	"net"
	"time"

	"replypath/test/await"
)

// askAgain is how long the answer to a datagram may take before it is asked again: floods and changes of the network
// cost some.
const askAgain = time.Second

// AskDatagram asks an echo server by a connected UDP socket until the answer to this question comes, or AnswerTime is
// over. Every question of a socket needs another number. It returns how often the question was repeated.
func AskDatagram(conn net.Conn, number uint64) (repeated int, err error) {
	return askDatagram(conn, number, askAgain)
}

func askDatagram(conn net.Conn, number uint64, again time.Duration) (repeated int, err error) {
	question, answer := binary.BigEndian.AppendUint64(nil, number), make([]byte, 8)
	for begun := time.Now(); time.Since(begun) < await.AnswerTime; repeated++ {
		deadline := time.Now().Add(again)
		if err = conn.SetDeadline(deadline); err != nil {
			return repeated, err
		}
		_, err = conn.Write(question)
		for err == nil && !bytes.Equal(question, answer) {
			_, err = conn.Read(answer)
		}
		if err == nil {
			return repeated, nil
		}
		time.Sleep(min(time.Until(deadline), await.Poll)) // after an ICMP error about an earlier question
	}
	return repeated, err
}
