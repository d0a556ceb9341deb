// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"replypath/test/await"
)

// createJournal creates the journal of a new directory.
func createJournal(t *testing.T, d *Dir) *JournalMap {
	t.Helper()
	j, fresh, err := CreateJournal(d)
	must(t, err)
	if !fresh {
		t.Error("it is not the first")
	}
	return j
}

func TestJournal(t *testing.T) {
	path := mkdir(t, mountBPF(t), "a")
	if _, err := ReadJournal(path); !errors.Is(err, ErrNone) {
		t.Errorf("read what is not there: %v", err)
	}
	d := own(t, path)
	j := createJournal(t, d)
	empty, err := ReadJournal(path)
	if must(t, err); !cmp.Equal(empty, new(Journal)) {
		t.Errorf("at first it is %+v", empty)
	}
	must(t, empty.CheckNamespace(path))

	here, err := CurrentNamespace()
	must(t, err)
	want := &Journal{
		Namespace: here, PID: 7, LoadedAt: time.Unix(1, 2).UTC(),
		Seeds:      []uint64{1<<64 - 1, 1<<53 + 1},
		Interfaces: []InterfaceRecord{{ID: 1, Index: 2, Name: "eth\xe9", Attached: true}},
		Repairs:    map[string]uint64{"program": 1<<64 - 1},
	}
	must(t, j.Write(want))
	must(t, j.Write(want))
	must(t, j.Close())
	got, err := ReadJournal(path)
	must(t, err)
	want.Interfaces[0].Name = "eth\ufffd" // JSON is UTF-8
	await.Same(t, "journal", want, got)
	must(t, got.CheckNamespace(path))
	got.Namespace.Cookie++
	got.Namespace.Inode++
	if err := got.CheckNamespace(path); !errors.Is(err, ErrForeignNamespace) {
		t.Errorf("another namespace: %v", err)
	}

	again, fresh, err := CreateJournal(d)
	if must(t, err); fresh {
		t.Error("it was made anew")
	}
	must(t, again.Close())
}

func TestJournalThatIsTooLarge(t *testing.T) {
	path := mkdir(t, mountBPF(t), "a")
	j := createJournal(t, own(t, path))
	defer j.Close()
	must(t, j.Write(&Journal{Version: "small"}))
	random := make([]byte, journalSize)
	_, err := rand.Read(random)
	must(t, err)
	if err := j.Write(&Journal{Version: base64.StdEncoding.EncodeToString(random)}); err == nil {
		t.Error("it was written")
	}
	if got, err := ReadJournal(path); err != nil || got.Version != "small" {
		t.Errorf("after that: %+v, %v", got, err)
	}
}

// TestLargestJournal: as many interfaces, gateways and sysctls fit as the maps of the datapath have places for, also on trial.
func TestLargestJournal(t *testing.T) {
	const most = 4096 // MAX_INTERFACES and MAX_GATEWAYS in bpf/src/maps.h
	var all Journal
	for n := range most {
		name, mac := fmt.Sprintf("enp65s0f1.%d", n), fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", n>>8, n&255, n*7&255, n*11&255, n*13&255)
		all.Interfaces = append(all.Interfaces, InterfaceRecord{
			ID: uint16(n), Index: n + 1, Name: name, MAC: mac, Attached: true, Mechanism: "clsact", NextHop: "gateway", Mode: "enforce"})
		all.Gateways = append(all.Gateways, GatewayRecord{
			ID: uint16(n), Interface: n + 1, Name: name, Address: fmt.Sprintf("2001:db8:%x:%x::1", n, n*17&0xffff), MAC: mac, Default: true})
		all.Sysctls = append(all.Sysctls, SysctlRecord{Interface: n + 1, Key: "net.ipv4.conf." + name + ".rp_filter", Before: "1", After: "2"})
		all.Qdiscs = append(all.Qdiscs, QdiscRecord{Interface: n + 1, Name: name})
	}
	want := all
	want.Trial = &TrialRecord{Before: &all}
	path := mkdir(t, mountBPF(t), "a")
	j := createJournal(t, own(t, path))
	defer j.Close()
	must(t, j.Write(&want))
	got, err := ReadJournal(path)
	must(t, err)
	await.Same(t, "journal", &want, got)
}

func TestDamagedJournal(t *testing.T) {
	path := mkdir(t, mountBPF(t), "a")
	j := createJournal(t, own(t, path))
	defer j.Close()
	must(t, j.Write(&Journal{Version: "x"}))
	var value []byte
	must(t, j.m.Lookup(uint32(0), &value))
	for what, damage := range map[string]func([]byte){
		"checksum": func(v []byte) { v[journalHeader] ^= 1 },
		"length":   func(v []byte) { v[0], v[1], v[2], v[3] = 255, 255, 255, 255 },
	} {
		damaged := append([]byte{}, value...)
		damage(damaged)
		must(t, j.m.Put(uint32(0), damaged))
		if _, err := j.Read(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
