// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/topology"
)

// transferTime is enough for any transfer.
const transferTime = 60 * time.Second

// content is what is transferred, a stream that repeats nothing.
func content() io.Reader { return rand.NewChaCha8([32]byte{1}) }

// ServeTransfers echoes TCP at an address of a host, at a port that the kernel chooses, until the test ends.
func ServeTransfers(t testing.TB, host *topology.Host, address netip.Addr) net.Listener {
	t.Helper()
	l := await.Must1[net.Listener](t)(host.Listen(t.Context(), "tcp", netip.AddrPortFrom(address, 0).String()))
	serveUntilClosed(t, l, func() error { return ServeStreams(l) })
	return l
}

// DialTransfer connects to a transfer server.
func DialTransfer(t testing.TB, client *topology.Host, to net.Listener) net.Conn {
	t.Helper()
	return await.Must1[net.Conn](t)(client.Dial(await.Within(t, await.AnswerTime), "tcp", to.Addr().String()))
}

// TransferBothWays has so many bytes go to a transfer server and come back, and holds them against what they have to be.
func TransferBothWays(t testing.TB, conn net.Conn, size int64) {
	t.Helper()
	await.Must(t, conn.SetDeadline(time.Now().Add(transferTime)))
	sent, came := sha256.New(), sha256.New()
	uploaded := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(conn, sent), content(), size)
		uploaded <- err
	}()
	n, err := io.CopyN(came, conn, size)
	if err = errors.Join(err, <-uploaded); err == nil && !bytes.Equal(sent.Sum(nil), came.Sum(nil)) {
		err = errors.New("the bytes were altered")
	}
	if err != nil {
		t.Errorf("after %d bytes of %d: %v", n, size, err)
	}
}
