// SPDX-License-Identifier: Apache-2.0

package server

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// Speaker is a conversation of a client with a server in which either end speaks when it likes.
type Speaker struct {
	*testing.T
	Client, Server net.Conn
	Peer, Self     netip.AddrPort
	Said           topology.Filter // all that the server sends
}

// NewSpeakers are one by UDP and one by TCP with an address of the server; the client has asked.
func NewSpeakers(t *testing.T, client, server *topology.Host, at netip.Addr) []*Speaker {
	t.Helper()
	push, ctx := traffic.NewPush(t, client, server, at, at), await.Within(t, await.AnswerTime)
	socket := await.Must1[net.PacketConn](t)(server.ListenPacket(ctx, "udp", netip.AddrPortFrom(at, 0).String()))
	asking := await.Must1[net.Conn](t)(client.Dial(ctx, "udp", socket.LocalAddr().String()))
	t.Cleanup(func() { socket.Close(); asking.Close() })
	all := []*Speaker{
		newSpeaker(t, topology.UDP, asking, unconnected{socket, asking.LocalAddr()}),
		newSpeaker(t, topology.TCP, push.Client, push.Server),
	}
	for _, s := range all {
		s.Ask()
	}
	return all
}

func newSpeaker(t *testing.T, protocol topology.Filter, client, server net.Conn) *Speaker {
	peer, self := netip.MustParseAddrPort(client.LocalAddr().String()), netip.MustParseAddrPort(server.LocalAddr().String())
	said := topology.All(protocol, topology.From(self.Addr()), topology.FromPort(self.Port()))
	return &Speaker{t, client, server, peer, self, said}
}

// unconnected is a server's socket for datagrams, which is not connected: by a connected one the host itself speaks first.
type unconnected struct {
	net.PacketConn
	peer net.Addr
}

func (u unconnected) RemoteAddr() net.Addr                  { return u.peer }
func (u unconnected) Write(message []byte) (n int, _ error) { return u.WriteTo(message, u.peer) }
func (u unconnected) Read(message []byte) (n int, err error) {
	n, _, err = u.ReadFrom(message)
	return n, err
}

// Ask has the client speak, and then the server.
func (s *Speaker) Ask() {
	s.Helper()
	s.pass(s.Client, s.Server)
	s.Say()
}

// Say has the server speak, and the client hear it.
func (s *Speaker) Say() {
	s.Helper()
	s.pass(s.Server, s.Client)
}

// Speak has the server speak, whoever hears it.
func (s *Speaker) Speak() error {
	_, err := s.Server.Write([]byte(message))
	return err
}

const message = "message"

func (s *Speaker) pass(from, to net.Conn) {
	s.Helper()
	await.Must1[int](s)(from.Write([]byte(message)))
	await.Must(s, to.SetReadDeadline(time.Now().Add(await.AnswerTime)))
	heard := make([]byte, len(message))
	await.Must1[int](s)(io.ReadFull(to, heard))
	await.Same(s, "what "+to.LocalAddr().String()+" heard", message, string(heard))
}
