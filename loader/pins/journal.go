// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// The journal is JSON in a map of one value, so that it lives and dies with the
// pins: length and CRC-32 (both in native byte order), then the text, by gzip where it would not fit.
const (
	journalSize   = 1 << 20
	journalHeader = 8
)

// Journal is what a later process has to know: which network namespace the
// datapath works for, who runs it, and what was changed on the host.
type Journal struct {
	Namespace  Namespace `json:"namespace"`
	Version    string    `json:"version"`
	PID        int       `json:"pid"`
	Passes     bool      `json:"passes"` // the process sets the directory's time, see Dir.Pass; earlier versions did not
	Seeds      []uint64  `json:"seeds"`  // of the digests in the flow tables (bpf.Seeds)
	Mode       string    `json:"mode"`   // as configured
	ConfigPath string    `json:"config_path"`
	LoadedAt   time.Time `json:"loaded_at"`
	Began      time.Time `json:"began,omitzero"` // when counting began; zero in journals of earlier versions
	// Config is the configuration in force, flags included, as config.Encode writes it; nil in journals
	// of earlier versions, and where it is too large.
	Config    json.RawMessage `json:"config,omitempty"`
	ConfigErr string          `json:"config_error"`
	// History is a file that versions before 0.3 kept, for who takes everything away; empty for none.
	History    string            `json:"history,omitempty"`
	Interfaces []InterfaceRecord `json:"interfaces"`
	Unmanaged  []UnmanagedRecord `json:"unmanaged"`
	Gateways   []GatewayRecord   `json:"gateways"`
	Features   []FeatureRecord   `json:"features"`
	Sysctls    []SysctlRecord    `json:"sysctls"`
	Qdiscs     []QdiscRecord     `json:"qdiscs"`
	// SourceCgroup is the cgroup whose sockets' source addresses are repaired;
	// empty while none are.
	SourceCgroup string `json:"source_cgroup"`
	// WouldChange is what enforcing would change on the host for interfaces that only observe.
	WouldChange []ChangeRecord `json:"would_change,omitempty"`
	// Fallback is the device of the fallback routes; nil while none is made.
	Fallback *FallbackRecord `json:"fallback,omitempty"`

	// Trial is what the datapath is on until somebody confirms it; nil: for good.
	Trial *TrialRecord `json:"trial,omitempty"`

	Errors  []string          `json:"errors"`  // what could not be done and is tried again
	Repairs map[string]uint64 `json:"repairs"` // by object: what was put back after others had changed it
}

// Recording names the interfaces whose requests are recorded.
func (j *Journal) Recording() (names []string) {
	for _, r := range j.Interfaces {
		if r.Index != 0 && !r.Catches {
			names = append(names, r.Name)
		}
	}
	return names
}

// Missed are the managed interfaces that went or lost their last address, each once, and did not come back.
func (j *Journal) Missed() (list []InterfaceRecord) {
	for n := len(j.Interfaces) - 1; n >= 0; n-- {
		r := j.Interfaces[n]
		isBack := func(o InterfaceRecord) bool { return o.Name == r.Name && o.Index != 0 && o.Gone == nil }
		isTold := func(o InterfaceRecord) bool { return o.Name == r.Name }
		isLeftOut := func(u UnmanagedRecord) bool { return u.Name == r.Name && u.Reason != ReasonNoAddress }
		if r.Gone != nil && !slices.ContainsFunc(j.Interfaces, isBack) && !slices.ContainsFunc(list, isTold) && !slices.ContainsFunc(j.Unmanaged, isLeftOut) {
			list = append(list, r)
		}
	}
	return list
}

// ForgetGone has nobody miss an interface that is gone: a configuration says what is to be managed from now on.
func (j *Journal) ForgetGone() {
	for n := range j.Interfaces {
		j.Interfaces[n].Gone = nil
	}
}

// Clone makes a copy of a journal whose lists can be changed.
func (j *Journal) Clone() *Journal {
	c := *j
	c.Interfaces = slices.Clone(j.Interfaces)
	c.Gateways = slices.Clone(j.Gateways)
	c.Sysctls = slices.Clone(j.Sysctls)
	c.Qdiscs = slices.Clone(j.Qdiscs)
	return &c
}

// TrialRecord is what takes a datapath on trial back.
type TrialRecord struct {
	Until time.Time `json:"until"`
	// Before is the journal of the datapath that was there, whose maps are pinned
	// aside; nil: there was none.
	Before *Journal `json:"before,omitempty"`
}

// InterfaceRecord is one life of a managed or caught interface. ID is its index in the
// map `interfaces`; it outlives the interface, because counters refer to it.
type InterfaceRecord struct {
	ID    uint16 `json:"id"`
	Index int    `json:"index,omitempty"` // 0: gone, or neither managed nor caught any more: ID and name are left
	Name  string `json:"name"`
	MAC   string `json:"mac,omitempty"` // empty without an Ethernet header
	// Attached tells that the programs were attached once: where they are not
	// any more, the index may have passed to another interface.
	Attached  bool   `json:"attached,omitempty"`
	Mechanism string `json:"mechanism,omitempty"` // by which they were; empty in journals of earlier versions
	NextHop   string `json:"next_hop,omitempty"`
	Mode      string `json:"mode,omitempty"`
	Catches   bool   `json:"catches,omitempty"`   // it is not managed: only replies that leave by it are caught
	Addressed bool   `json:"addressed,omitempty"` // it had an address
	// Gone is when it went, or had no address left; nil: it is there, or a configuration since then says what is to be managed.
	Gone *time.Time `json:"gone,omitempty"`
}

// ReasonNoAddress is why interfaces are left alone that are managed for their addresses.
const ReasonNoAddress = "no global address"

// UnmanagedRecord is an interface that is left alone.
type UnmanagedRecord struct {
	Name   string `json:"name"`
	Reason string `json:"reason"` // a few words, as for a table
}

// GatewayRecord is a gateway. ID is its index in the map `gateways`; it outlives
// the gateway, because flows refer to it.
type GatewayRecord struct {
	ID        uint16 `json:"id"`
	Interface int    `json:"interface"`
	Name      string `json:"name,omitempty"` // of the interface
	Address   string `json:"address"`
	Gone      bool   `json:"gone"`              // no route leads through it any more
	MAC       string `json:"mac,omitempty"`     // that it had last
	Held      bool   `json:"held,omitempty"`    // it is silent, and its neighbour entry kept usable
	Bridged   bool   `json:"bridged,omitempty"` // the same, and it is not known to be silent yet
	Default   bool   `json:"default,omitempty"` // a default route of the main table has led by it since the start
}

// FallbackRecord is the device of the fallback routes, or one that was about to be
// made when the process ended: Index is 0 then.
type FallbackRecord struct {
	Index int    `json:"index"`
	Kind  string `json:"kind"` // as for `ip link add type`
	// Mechanism is by which the programs were attached to it last.
	Mechanism string `json:"mechanism,omitempty"`
	// Bound are the default routes for sockets that are bound to a device.
	Bound []BoundRecord `json:"bound,omitempty"`
}

// BoundRecord is a default route by an interface, for sockets that are bound to it.
type BoundRecord struct {
	Interface int        `json:"interface"`
	Name      string     `json:"name"`   // of the interface
	Family    int        `json:"family"` // unix.AF_INET or unix.AF_INET6
	Gateway   netip.Addr `json:"gateway"`
}

// FeatureProbeRead is the name of the feature by which programs read the kernel's memory.
const FeatureProbeRead = "probe_read"

// FeatureRecord is something that depends on the kernel or on the version.
type FeatureRecord struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	Effect    string `json:"effect"`
}

// SysctlRecord is a sysctl that was changed, or was about to be when the process
// ended.
type SysctlRecord struct {
	Interface int    `json:"interface"`
	Key       string `json:"key"`
	Before    string `json:"before"`
	After     string `json:"after"`
}

// ChangeRecord is a change of the host that was not made, as people read it.
type ChangeRecord struct {
	Object string `json:"object"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// QdiscRecord is a clsact qdisc that was added, or was about to be.
type QdiscRecord struct {
	Interface int    `json:"interface"`
	Name      string `json:"name"`
}

// JournalMap is the map that holds a Journal.
type JournalMap struct {
	m       *ebpf.Map
	written []byte // the text that Write wrote last
}

// CreateJournal opens the journal of an owned directory and creates it where
// there is none; fresh tells which.
func CreateJournal(d *Dir) (journal *JournalMap, fresh bool, err error) {
	journal, err = openPinned(d.Path(journalName), nil)
	if !errors.Is(err, fs.ErrNotExist) {
		return journal, false, err
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "rp_journal", Type: ebpf.Array, KeySize: 4, ValueSize: journalSize, MaxEntries: 1,
	})
	if err != nil {
		return nil, false, fmt.Errorf("create journal: %w", err)
	}
	if err := m.Pin(d.Path(journalName)); err != nil {
		return nil, false, errors.Join(fmt.Errorf("pin journal: %w", err), m.Close())
	}
	return &JournalMap{m: m}, true, nil
}

// PinAgain pins the journal where it was, if it is not there any more; true if it did.
func (j *JournalMap) PinAgain(d *Dir) (pinned bool, err error) {
	if d.Has(journalName) {
		return false, nil
	}
	clone, err := j.m.Clone() // Pin would move what it takes for pinned
	if err != nil {
		return false, fmt.Errorf("pin journal: %w", err)
	}
	defer bpf.Close(clone)
	if err := clone.Pin(d.Path(journalName)); err != nil {
		return false, fmt.Errorf("pin journal: %w", err)
	}
	return true, nil
}

// openJournal opens the journal of a directory for reading; the error matches
// ErrNone where there is none.
func openJournal(path string) (*JournalMap, error) {
	journal, err := openPinned(filepath.Join(path, journalName), &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noneIn(path)
	}
	return journal, err
}

// openPinned opens a pinned journal. What else may be pinned by its name is refused.
func openPinned(path string, options *ebpf.LoadPinOptions) (*JournalMap, error) {
	m, err := ebpf.LoadPinnedMap(path, options)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if m.Type() != ebpf.Array || m.KeySize() != 4 || m.ValueSize() != journalSize || m.MaxEntries() != 1 {
		return nil, errors.Join(fmt.Errorf("open journal: %s is no journal: another program has pinned it", Shown(path)), bpf.Close(m))
	}
	return &JournalMap{m: m}, nil
}

// Close closes the map; the journal stays where it is pinned.
func (j *JournalMap) Close() error {
	if j == nil {
		return nil
	}
	return bpf.Close(j.m)
}

// Write replaces the journal, unless it is what was written last.
func (j *JournalMap) Write(journal *Journal) error {
	text, err := json.Marshal(journal)
	if err != nil {
		return fmt.Errorf("encode journal: %w", err)
	}
	if bytes.Equal(text, j.written) {
		return nil
	}
	packed, err := pack(text)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	value := make([]byte, journalSize)
	binary.NativeEndian.PutUint32(value, uint32(len(packed)))
	binary.NativeEndian.PutUint32(value[4:], crc32.ChecksumIEEE(packed))
	copy(value[journalHeader:], packed)
	if err := j.m.Put(uint32(0), value); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	j.written = text
	return nil
}

// pack compresses a text that does not fit as it is: earlier versions read what does. It fits if the maps of the datapath are
// full, see TestLargestJournal.
func pack(text []byte) ([]byte, error) {
	const most = journalSize - journalHeader
	if len(text) <= most {
		return text, nil
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(text)
	if err = errors.Join(err, w.Close()); err == nil && packed.Len() > most {
		err = fmt.Errorf("%d bytes do not fit into %d", packed.Len(), most)
	}
	return packed.Bytes(), err
}

// unpack decodes a text that pack has returned.
func unpack(packed []byte, journal *Journal) error {
	if packed[0] == '{' {
		return json.Unmarshal(packed, journal)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	return json.NewDecoder(r).Decode(journal)
}

// readAttempts bounds how often a reader meets a writer: an array map is not
// written in one step, the checksum tells.
const readAttempts = 100

// Read returns the journal. An empty one, of a process that ended before its
// first write, has no namespace.
func (j *JournalMap) Read() (journal *Journal, err error) {
	for range readAttempts {
		journal = new(Journal)
		if err = j.readOnce(journal); err == nil {
			return journal, nil
		}
	}
	return nil, err
}

func (j *JournalMap) readOnce(journal *Journal) error {
	var value []byte
	if err := j.m.Lookup(uint32(0), &value); err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	if len(value) < journalHeader {
		return errors.New("read journal: it is too short")
	}
	length := binary.NativeEndian.Uint32(value)
	if length == 0 {
		return nil
	}
	if uint64(length) > uint64(len(value)-journalHeader) {
		return errors.New("read journal: its length is out of bounds")
	}
	text := value[journalHeader : journalHeader+length]
	if crc32.ChecksumIEEE(text) != binary.NativeEndian.Uint32(value[4:]) {
		return errors.New("read journal: its checksum does not match")
	}
	if err := unpack(text, journal); err != nil {
		return fmt.Errorf("decode journal: %w", err)
	}
	return nil
}

// ReadJournal reads the journal of a directory that works for the network namespace of the
// calling thread. The error matches ErrNone where there is none, and ErrForeignNamespace where
// it is that of another network namespace.
func ReadJournal(path string) (*Journal, error) {
	journal, err := readAnyJournal(path)
	if err != nil {
		return nil, err
	}
	return journal, journal.CheckNamespace(path)
}

// readAnyJournal is ReadJournal whatever network namespace the journal is of.
func readAnyJournal(path string) (*Journal, error) {
	journal, err := openJournal(path)
	if err != nil {
		return nil, err
	}
	defer journal.Close()
	return journal.Read()
}

// CheckNamespace returns an error that matches ErrForeignNamespace when the
// journal is that of another network namespace.
func (j *Journal) CheckNamespace(path string) error { return j.Namespace.check(path) }
