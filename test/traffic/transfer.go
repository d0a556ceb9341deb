// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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

// What a client asks a transfer server for, in its first byte.
const (
	download byte = 'd' // so many bytes
	upload   byte = 'u' // the digest of so many bytes that follow
)

// content is what is transferred, a stream that repeats nothing.
func content() io.Reader { return rand.NewChaCha8([32]byte{1}) }

func contentDigest(size int64) []byte {
	h := sha256.New()
	_, _ = io.CopyN(h, content(), size) // neither can fail
	return h.Sum(nil)
}

// ServeTransfers serves downloads and uploads at an address of a host, at a port that the kernel chooses, until the
// test ends.
func ServeTransfers(t testing.TB, host *topology.Host, address netip.Addr) net.Listener {
	t.Helper()
	l := await.Must1[net.Listener](t)(host.Listen(t.Context(), "tcp", netip.AddrPortFrom(address, 0).String()))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveTransfers(conn)
		}
	}()
	return l
}

// serveTransfers serves one connection; who asked notices what goes wrong.
func serveTransfers(conn net.Conn) {
	defer conn.Close()
	for {
		var request transferRequest
		if err := request.read(conn); err != nil {
			return
		}
		switch request.what {
		case download:
			_, _ = io.CopyN(conn, content(), request.size)
		case upload:
			h := sha256.New()
			_, _ = io.CopyN(h, conn, request.size)
			_, _ = conn.Write(h.Sum(nil))
		}
	}
}

type transferRequest struct {
	what byte
	size int64
}

func (r *transferRequest) read(from io.Reader) error {
	_, err := fmt.Fscanf(from, "%c %d\n", &r.what, &r.size)
	return err
}

func (r transferRequest) write(to io.Writer) error {
	_, err := fmt.Fprintf(to, "%c %d\n", r.what, r.size)
	return err
}

// DialTransfer connects to a transfer server.
func DialTransfer(t testing.TB, client *topology.Host, to net.Listener) net.Conn {
	t.Helper()
	return await.Must1[net.Conn](t)(client.Dial(await.Within(t, await.AnswerTime), "tcp", to.Addr().String()))
}

// TransferBothWays downloads and uploads so many bytes, and holds them against what they have to be.
func TransferBothWays(t testing.TB, conn net.Conn, size int64) {
	t.Helper()
	for _, what := range []byte{download, upload} {
		if err := transfer(await.Within(t, transferTime), conn, what, size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func transfer(ctx context.Context, conn net.Conn, what byte, size int64) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(0, 1)) })
	defer stop()
	if err := (transferRequest{what, size}).write(conn); err != nil {
		return err
	}
	digest := make([]byte, sha256.Size)
	if what == download {
		h := sha256.New()
		if n, err := io.CopyN(h, conn, size); err != nil {
			return fmt.Errorf("after %d bytes of a download: %w", n, err)
		}
		digest = h.Sum(digest[:0])
	} else {
		if n, err := io.CopyN(conn, content(), size); err != nil {
			return fmt.Errorf("after %d bytes of an upload: %w", n, err)
		}
		if _, err := io.ReadFull(conn, digest); err != nil {
			return fmt.Errorf("the digest of an upload: %w", err)
		}
	}
	if !bytes.Equal(digest, contentDigest(size)) {
		return errors.New("the bytes were altered")
	}
	return nil
}
