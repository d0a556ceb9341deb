// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"replypath/loader/config"
	"replypath/loader/pins"
	"replypath/loader/source"
	"replypath/test/await"
	"replypath/test/topology"
)

func repairSource(o *Options) { o.Config.RepairUDPSource = config.RepairTrue }

// sourceLinks returns the links on the cgroup, and the programs that they run.
func (b *server) sourceLinks() (links []link.ID, programs []ebpf.ProgramID) {
	b.Helper()
	for _, path := range b.sourcePins() {
		l, err := link.LoadPinnedLink(path, nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		await.Must(b.T, err)
		info, err := l.Info()
		await.Must(b.T, errors.Join(err, l.Close()))
		links, programs = append(links, info.ID), append(programs, info.Program)
	}
	return links, programs
}

func (b *server) sourcePins() []string { return source.Pins(filepath.Join(b.dir, "links")) }

// TestSourceWithToldNamespace: what a program tells of the network namespace is what newer kernels tell directly, and the
// programs work with it, as on kernels before 5.14.
func TestSourceWithToldNamespace(t *testing.T) {
	b := newAnsweringServer(t)
	for _, host := range []*topology.Host{b.net.A.Host, b.host} {
		await.Must(t, host.Do(func() error {
			want, err := pins.CurrentNamespace()
			await.Must(t, err)
			cgroup, err := source.Cgroup()
			await.Must(t, err)
			got, err := source.AskNamespace(cgroup)
			if err != nil || got == 0 || (want.Cookie != 0 && got != want.Cookie) {
				t.Errorf("%s: cookie %d, %v, want %d", host.Name, got, err, want.Cookie)
			}
			return nil
		}))
	}

	conn, err := b.net.B.ListenPacket(t.Context(), "udp", "[::]:5300")
	await.Must(t, err)
	defer conn.Close()
	b.inside(func() error {
		l := &Loader{newCore(b.options(repairSource))}
		steps := start{l.core}.steps()
		forget := func() error { l.state.Namespace.Cookie = 0; return nil }
		await.Must(t, start{l.core}.attempt(slices.Insert(steps, len(steps)-2, forget)))
		defer l.Close()
		if l.source.Namespace() == 0 {
			t.Error("the namespace was not told")
		}
		return nil
	})
	for _, f := range b.net.Families() {
		asked := netip.AddrPortFrom(b.eth1.Address(f), 5300)
		client, err := b.net.A.Dial(within(t), "udp", asked.String())
		await.Must(t, err)
		defer client.Close()
		_, err = client.Write([]byte("question"))
		await.Must(t, err)
		buffer := make([]byte, 100)
		n, from, err := conn.ReadFrom(buffer)
		await.Must(t, err)
		_, err = conn.WriteTo(buffer[:n], from)
		await.Must(t, err)
		deadline, _ := within(t).Deadline()
		await.Must(t, client.SetReadDeadline(deadline))
		if _, err := client.Read(buffer); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}
