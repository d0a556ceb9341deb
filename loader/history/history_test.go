// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"replypath/test/await"
)

var epoch = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// replies is a flow of a peer, that was begun so long before the epoch.
func replies(peer string, id uint64, begun time.Duration, packets uint64) conversation {
	return conversation{
		Key: Key{
			Self: netip.MustParseAddr("10.4.0.100"), SelfPort: 5432, Protocol: "tcp", Peer: NetworkOf(netip.MustParseAddr(peer)),
			FromInterface: "eth0", ToInterface: "eth1",
		},
		id: id, begun: epoch.Add(-begun), sent: count{packets: packets, bytes: 10 * packets},
	}
}

// gather has a history see conversations at a time after the epoch.
func gather(h *History, after time.Duration, seen ...conversation) {
	g := h.begin(epoch.Add(after))
	for _, c := range seen {
		g.add(&c)
	}
	g.end()
}

// show is what tests compare.
func show(h *History) string {
	var lines []string
	for _, r := range h.List(time.Time{}) {
		lines = append(lines, fmt.Sprintf("%s %s flows %d packets %d bytes %d from %v to %v", r.Peer, r.Protocol, r.Flows, r.Packets, r.Bytes,
			r.FirstSeen.Sub(epoch), r.LastSeen.Sub(epoch)))
	}
	return strings.Join(lines, "\n")
}

func want(t *testing.T, h *History, lines ...string) {
	t.Helper()
	await.Same(t, "history", strings.Join(lines, "\n"), show(h))
}

// TestHistory: a flow counts once however often it is seen, and what it sends counts as it goes on.
func TestHistory(t *testing.T) {
	h := New()
	gather(h, 0, replies("10.9.0.1", 1, time.Hour, 100), replies("10.9.0.2", 2, time.Minute, 5), replies("10.8.0.1", 3, time.Second, 0))
	want(t, h,
		"10.9.0.0/24 tcp flows 2 packets 105 bytes 1050 from -1h0m0s to 0s",
		"10.8.0.0/24 tcp flows 1 packets 0 bytes 0 from -1s to 0s")
	gather(h, time.Minute, replies("10.9.0.1", 1, time.Hour, 130), replies("10.9.0.3", 4, -30*time.Second, 2))
	want(t, h,
		"10.9.0.0/24 tcp flows 3 packets 137 bytes 1370 from -1h0m0s to 1m0s",
		"10.8.0.0/24 tcp flows 1 packets 0 bytes 0 from -1s to 0s")
	// What cannot be counted this time is not counted again.
	gather(h, 2*time.Minute, replies("10.9.0.1", 1, time.Hour, 0))
	gather(h, 3*time.Minute, replies("10.9.0.1", 1, time.Hour, 135))
	if rows := h.List(epoch.Add(3 * time.Minute)); len(rows) != 1 || rows[0].Packets != 142 {
		t.Errorf("since then: %+v", rows)
	}
	// Another flow by the same tuple.
	gather(h, 4*time.Minute, replies("10.9.0.1", 1, -3*time.Minute-2*time.Second, 3))
	if rows := h.List(epoch.Add(4 * time.Minute)); len(rows) != 1 || rows[0].Packets != 145 || rows[0].Flows != 4 {
		t.Errorf("by the same tuple: %+v", rows)
	}
	if !h.Since.Equal(epoch) || !h.Gathered.Equal(epoch.Add(4*time.Minute)) {
		t.Errorf("from %s to %s", h.Since, h.Gathered)
	}
}

// TestHistoryMissed: a conversation that some gatherings miss counts once, with all that it sent.
func TestHistoryMissed(t *testing.T) {
	h := New()
	opened := func(packets uint64) conversation {
		c := replies("2001:db8::1", 2, 0, packets)
		c.Originated, c.begun, c.PeerPort = true, time.Time{}, 443
		return c
	}
	for n := range 3 {
		at := time.Duration(2*n) * time.Minute
		gather(h, at, replies("10.9.0.1", 1, time.Hour, uint64(100+n)), opened(uint64(5+n)))
		gather(h, at+time.Minute)
	}
	want(t, h,
		"10.9.0.0/24 tcp flows 1 packets 102 bytes 1020 from -1h0m0s to 4m0s",
		"2001:db8::/64 tcp flows 1 packets 7 bytes 70 from 0s to 4m0s")
	for n := range mostMisses {
		gather(h, time.Duration(6+n)*time.Minute)
	}
	await.Same(t, "flows that ended and are remembered", 0, len(h.counted))
}

// TestHistoryFile: after a restart what was counted is not counted again, and what was begun since is.
func TestHistoryFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "history.json")
	h, err := Load(path)
	if err != nil || len(h.rows) != 0 {
		t.Fatalf("of no file: %v, %v", h, err)
	}
	opened := replies("2001:db8::1", 9, 0, 0)
	opened.Originated, opened.begun, opened.PeerPort = true, time.Time{}, 443
	gather(h, 0, replies("10.9.0.1", 1, time.Hour, 100), opened)
	await.Must(t, h.Save(path))
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info, err)
	}
	again, err := Load(path)
	await.Must(t, err)
	gather(again, time.Minute, replies("10.9.0.1", 1, time.Hour, 120), replies("10.9.0.2", 2, -2*time.Second, 7), opened)
	want(t, again,
		"10.9.0.0/24 tcp flows 2 packets 107 bytes 1070 from -1h0m0s to 1m0s",
		"2001:db8::/64 tcp flows 1 packets 0 bytes 0 from 0s to 1m0s")
	other := replies("2001:db8::2", 10, 0, 0)
	other.Key, other.begun = opened.Key, time.Time{}
	gather(again, 2*time.Minute, opened, other)
	if rows := again.List(epoch.Add(2 * time.Minute)); len(rows) != 1 || rows[0].Flows != 2 {
		t.Errorf("another that was opened: %+v", rows)
	}
	for name, text := range map[string]string{"a later version": `{"version": 2, "rows": []}`, "half of one": `{"version": 1, "ro`} {
		await.Must(t, os.WriteFile(path, []byte(text), 0o600))
		if got, err := Load(path); !errors.Is(err, ErrFile) || len(got.rows) != 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if err := h.Save("/proc/nowhere/history.json"); err == nil {
		t.Error("it was kept in /proc")
	}
}

// TestHistoryIsBounded: of too many rows the rarest make room, and of these the oldest.
func TestHistoryIsBounded(t *testing.T) {
	h := New()
	peer := func(n int) string { return netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 1}).String() }
	gather(h, 0, replies(peer(1), 1, 0, 0), replies(peer(1), 2, 0, 0), replies(peer(2), 3, 0, 0))
	var many []conversation
	for n := range MostRows {
		many = append(many, replies(peer(n+3), uint64(n+4), 0, 0))
	}
	opened := replies(peer(2), 4, 0, 0)
	opened.Originated = true
	gather(h, 0, opened)
	gather(h, time.Minute, many...)
	rows := h.List(time.Time{})
	if len(rows) != MostRows-spare || rows[0].Peer != NetworkOf(netip.MustParseAddr(peer(1))) {
		t.Errorf("%d rows, first %+v", len(rows), rows[0])
	}
	for _, r := range rows {
		if r.Peer == NetworkOf(netip.MustParseAddr(peer(2))) && !r.Originated {
			t.Error("the oldest of the rarest is there")
		}
	}
	if i := slices.IndexFunc(rows, func(r Row) bool { return r.Originated }); i < 0 || h.Incomplete {
		t.Error("what the host opened made room for others")
	}
	for n := range many {
		many[n].Originated = true
	}
	if gather(h, 2*time.Minute, many...); !h.Incomplete {
		t.Error("it is not known that something is left out")
	}
}

func TestCountInJSON(t *testing.T) {
	text, err := json.Marshal([]Count{0, 7})
	if err != nil || string(text) != "[null,7]" {
		t.Errorf("%s, %v", text, err)
	}
	var back []Count
	if err := json.Unmarshal(text, &back); err != nil || back[0] != 0 || back[1] != 7 {
		t.Errorf("%v, %v", back, err)
	}
}

func TestPath(t *testing.T) {
	for pinDir, want := range map[string]string{
		"/sys/fs/bpf/replypath": "/var/lib/replypath/history.json", "/sys/fs/bpf/b/": "/var/lib/replypath/history-sys-fs-bpf-b.json",
		"/a-b/c": "/var/lib/replypath/history-a_-b-c.json", "/a/b-c": "/var/lib/replypath/history-a-b_-c.json", "/a_/b": "/var/lib/replypath/history-a__-b.json",
	} {
		await.Same(t, pinDir, want, Path(DefaultDir, pinDir))
	}
}

// TestRemove takes away what stands beside a file as well, and nothing else. A file is replaced, not what it may be a
// link to.
func TestRemove(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "history.json"), filepath.Join(dir, "history-b.json")
	for _, file := range []string{path + ".old", path + ".new123", other} {
		await.Must(t, os.WriteFile(file, nil, 0o600))
	}
	await.Must(t, os.Symlink(other, path))
	await.Must(t, New().Save(path))
	if text, err := os.ReadFile(other); err != nil || len(text) != 0 {
		t.Errorf("the file behind a link has %q, %v", text, err)
	}
	if removed, err := Remove(path); !removed || err != nil {
		t.Errorf("removed: %v, %v", removed, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != filepath.Base(other) {
		t.Errorf("left: %v, %v", left, err)
	}
	if removed, err := Remove(path); removed || err != nil {
		t.Errorf("again: %v, %v", removed, err)
	}
}

// keep runs a keeper of no pins for some time, and returns what it logged.
func keep(t *testing.T, path string, d time.Duration) string {
	t.Helper()
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		k := &Keeper{PinDir: filepath.Join(t.TempDir(), "none"), Path: path, Log: slog.New(slog.NewTextHandler(&log, nil))}
		k.Run(ctx)
	})
	return log.String()
}

// watched is for how long a file says that a daemon looked.
func watched(t *testing.T, path string) time.Duration {
	t.Helper()
	h, err := Load(path)
	await.Must(t, err)
	return h.Watched
}

// TestKeeper: the time watched adds up over restarts, and is saved at the end.
func TestKeeper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "history.json")
	for n := range 2 {
		await.Same(t, "logged", "", keep(t, path, 90*time.Minute))
		await.Same(t, "watched", time.Duration(n+1)*90*time.Minute, watched(t, path))
	}
}

// TestKeeperSaves: while it runs it saves as well, where nothing but the time is new once an hour.
func TestKeeperSaves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.json")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			(&Keeper{PinDir: filepath.Join(t.TempDir(), "none"), Path: path, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
			close(done)
		}()
		time.Sleep(lazyInterval + time.Second)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("saved within an hour: %v", err)
		}
		time.Sleep(2 * gatherInterval)
		synctest.Wait()
		if got := watched(t, path); got < lazyInterval || got > lazyInterval+2*gatherInterval {
			t.Errorf("saved after %s", got)
		}
		cancel()
		<-done
	})
}

// TestKeeperOfBadFiles: what is of another version is set aside; what cannot be read stays. Either is logged once.
func TestKeeperOfBadFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.json")
	await.Must(t, os.WriteFile(path, []byte(`{"version": 2}`), 0o600))
	log := keep(t, path, time.Hour)
	if strings.Count(log, "\n") != 1 || !strings.Contains(log, "the history cannot be read and starts empty") {
		t.Errorf("of a later version is logged: %s", log)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 2 || watched(t, path) != time.Hour {
		t.Errorf("there are %v, %v", files, err)
	}

	unreadable := filepath.Join(t.TempDir(), "history.json") // a directory
	await.Must(t, os.Mkdir(unreadable, 0o700))
	if log := keep(t, unreadable, time.Hour); strings.Count(log, "\n") != 1 {
		t.Errorf("of a directory is logged: %s", log)
	}
	if info, err := os.Stat(unreadable); err != nil || !info.IsDir() {
		t.Errorf("it was replaced: %v", err)
	}
}
