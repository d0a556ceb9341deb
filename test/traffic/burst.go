// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"runtime"
	"testing"
	"unsafe"

	"github.com/gopacket/gopacket"
	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// burstSize is how many frames Flood sends by one system call.
const burstSize = 64

// messageHeader is struct mmsghdr of sendmmsg(2).
type messageHeader struct {
	header unix.Msghdr
	sent   uint32
}

// burst holds frames until they are sent together.
type burst struct {
	frames  [burstSize]gopacket.SerializeBuffer
	vectors [burstSize]unix.Iovec
	headers [burstSize]messageHeader
	filled  int
}

func newBurst() *burst {
	b := new(burst)
	for i := range b.frames {
		b.frames[i] = gopacket.NewSerializeBuffer()
		b.headers[i].header.Iov = &b.vectors[i]
		b.headers[i].header.SetIovlen(1)
	}
	return b
}

// Flood sends so many frames as fast as the kernel takes them. The layers of each are asked for in turn; those of the
// last one may be used again.
func (i *Injector) Flood(count int, layers func(number int) []gopacket.SerializableLayer) {
	i.t.Helper()
	// The address is in the socket, so that no message needs one.
	await.Must(i.t, unix.Bind(i.socket, &i.to))
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	b := newBurst()
	for number := range count {
		await.Must(i.t, gopacket.SerializeLayers(b.frames[b.filled], options, layers(number)...))
		if b.filled++; b.filled == burstSize || number == count-1 {
			b.send(i.t, i.socket)
		}
	}
}

// send sends what there is by as few calls as the kernel needs.
func (b *burst) send(t testing.TB, socket int) {
	t.Helper()
	for i := range b.filled {
		data := b.frames[i].Bytes()
		b.vectors[i].Base = &data[0]
		b.vectors[i].SetLen(len(data))
	}
	for next := 0; next < b.filled; {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(socket),
			uintptr(unsafe.Pointer(&b.headers[next])), uintptr(b.filled-next), 0, 0, 0)
		if errno != 0 && errno != unix.EINTR && errno != unix.ENOBUFS {
			t.Fatalf("send frames: %v", errno)
		}
		if errno == 0 {
			next += int(sent)
		}
	}
	runtime.KeepAlive(b)
	b.filled = 0
}
