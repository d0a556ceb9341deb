// SPDX-License-Identifier: Apache-2.0

package product

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
)

// Status is the JSON document of `replypath status`, as checks read it: keys and types are those that scripts rely on,
// not of the code that writes them.
type Status struct {
	Summary    string
	Mode       string
	TrialUntil *time.Time `json:"trial_until"`
	Daemon     struct {
		Running bool
		PID     *int
		Version *string
	}
	Config struct {
		LoadedAt *time.Time `json:"loaded_at"`
		Error    *string
	}
	Interfaces []Interface
	Unmanaged  []struct{ Name, Reason string }
	Addresses  []Served
	Flows      struct{ Count, Capacity int }
	Senders    []Sender
	Features   []struct {
		Name      string
		Available bool
		Effect    string
	}
	HostChanges []HostChange `json:"host_changes"`
	WouldChange []HostChange `json:"would_change"` // without Undo
	Errors      []string
	Health      Health
}

// Health is what is wrong, by a status.
type Health struct {
	State    string
	Findings Findings
}

// Served is what is served although no interface has it.
type Served struct{ Network, Source string }

// Sender is who brings requests, and by which way replies go back.
type Sender struct {
	Interface, Self, Way string
	MAC                  *string
	Settled              bool
	LearntAt             time.Time `json:"learnt_at"`
	HeardAt              time.Time `json:"heard_at"`
}

// Interface is a managed or caught interface in a status.
type Interface struct {
	Name         string
	Index        int
	Role         string
	Up, Attached bool
	Mechanism    *string
	Mode         string
	HostModel    string `json:"host_model"`
	Gateways     []Gateway
	RPFilter     *int `json:"rp_filter"`
	Recent       Recent
}

// Recent is what became of requests in the last ten minutes.
type Recent struct {
	Right, Astray, Lost, Unanswered int
	FirstAt                         *time.Time `json:"first_at"`
	LastAt                          *time.Time `json:"last_at"`
}

// Gateway is a known gateway of an interface.
type Gateway struct {
	Address string
	MAC     *string
	State   string
}

// HostChange is what was changed on the host.
type HostChange struct{ Object, Before, After, Undo string }

// OtherChanges are the changes of the host but for those of the fallback routes and of those behind them, which every
// host with a default route has.
func (s *Status) OtherChanges() []HostChange {
	return slices.DeleteFunc(slices.Clone(s.HostChanges), func(c HostChange) bool {
		return strings.Contains(c.Object, "replypath0") ||
			strings.Contains(c.Object, "default route by") || strings.Contains(c.Object, "which nobody has") ||
			strings.Contains(c.Object, "rules for replies")
	})
}

// Managed is how many interfaces are managed, without those that only catch replies.
func (s *Status) Managed() (n int) {
	for _, i := range s.Interfaces {
		if i.Role == "records" {
			n++
		}
	}
	return n
}

// Flow is an entry of the JSON document of `replypath flows`.
type Flow struct {
	Protocol, Family string
	Peer             string
	PeerPort         uint16 `json:"peer_port"`
	Self             string
	SelfPort         uint16 `json:"self_port"`
	Interface        *string
	NextHopMAC       *string `json:"next_hop_mac"`
	Verdict          *string
	State            string
	AgeSeconds       float64 `json:"age_seconds"`
	CorrectedPackets uint64  `json:"corrected_packets"`
	Closing          bool
}

// String names the flow in a message.
func (f Flow) String() string {
	return fmt.Sprintf("%s %s:%d > %s:%d", f.Protocol, f.Peer, f.PeerPort, f.Self, f.SelfPort)
}

// The keys that scripts rely on: always there, null where unknown.
var (
	statusKeys = []string{
		"mode", "daemon.running", "daemon.pid", "daemon.version", "config.loaded_at", "config.error",
		"interfaces[].name", "interfaces[].index", "interfaces[].role", "interfaces[].up", "interfaces[].attached",
		"interfaces[].mechanism", "interfaces[].mode", "interfaces[].gateways[].address", "interfaces[].gateways[].mac",
		"interfaces[].gateways[].state", "interfaces[].rp_filter", "interfaces[].host_model", "interfaces[].recent.right", "interfaces[].recent.astray",
		"interfaces[].recent.lost", "interfaces[].recent.unanswered", "interfaces[].recent.first_at", "interfaces[].recent.last_at", "unmanaged[].name", "unmanaged[].reason", "addresses[].network", "addresses[].source",
		"flows.count", "flows.capacity", "senders[].interface", "senders[].mac", "senders[].self", "senders[].way",
		"senders[].settled", "senders[].learnt_at", "senders[].heard_at", "features[].name", "features[].available", "features[].effect",
		"host_changes[].object", "host_changes[].before", "host_changes[].after", "host_changes[].undo",
		"would_change[].object", "would_change[].before", "would_change[].after",
	}
	flowKeys = []string{
		"[].protocol", "[].family", "[].peer", "[].peer_port", "[].self", "[].self_port", "[].interface",
		"[].next_hop_mac", "[].verdict", "[].state", "[].age_seconds", "[].corrected_packets", "[].bytes", "[].closing",
	}
)

// ReadStatus is what the command status does, in this process: see package inprocess. Nil has Status start the command.
var ReadStatus func(pinDir string) (any, error)

// Status reads the status of something attached. Most ask again and again: it does not start a process where it need
// not.
func (p *Product) Status() *Status {
	p.t.Helper()
	if ReadStatus == nil {
		return p.Diagnosed()
	}
	var read any
	await.Must(p.t, p.Host.Do(func() (err error) {
		read, err = ReadStatus(p.PinDir)
		return err
	}))
	document := await.Must1[[]byte](p.t)(json.Marshal(read))
	return p.status(&Result{Args: []string{"status"}, Stdout: string(document)})
}

// Diagnosed has the command tell the status, with what is wrong.
func (p *Product) Diagnosed() *Status {
	p.t.Helper()
	r := p.Run("status", "-o", "json")
	if r.Code != 0 && r.Code != 3 { // 3: replies fail now
		p.t.Fatal(r)
	}
	return p.status(r)
}

// StatusOf asks the command for the status and wants an exit code.
func (p *Product) StatusOf(code int) *Status {
	p.t.Helper()
	return p.status(p.Expect(code, "status", "-o", "json"))
}

func (p *Product) status(r *Result) (s *Status) {
	p.t.Helper()
	decode(p.t, r, &s, statusKeys)
	return s
}

// Interface returns a managed interface of the status by its name, or nil.
func (s *Status) Interface(name string) *Interface {
	for i := range s.Interfaces {
		if s.Interfaces[i].Name == name {
			return &s.Interfaces[i]
		}
	}
	return nil
}

// Flows reads the flow table.
func (p *Product) Flows(filter ...string) []Flow {
	p.t.Helper()
	var flows []Flow
	decode(p.t, p.Expect(0, append([]string{"flows", "-o", "json"}, filter...)...), &flows, flowKeys)
	return flows
}

// decode reads a JSON document that has every one of the keys.
func decode(t testing.TB, r *Result, v any, keys []string) {
	t.Helper()
	var document any
	if err := json.Unmarshal([]byte(r.Stdout), &document); err != nil {
		t.Fatalf("%s: %v", r, err)
	}
	for _, key := range keys {
		if err := lacks(document, strings.Split(key, ".")); err != nil {
			t.Errorf("key %s: %v: %s", key, err, r)
		}
	}
	if err := json.Unmarshal([]byte(r.Stdout), v); err != nil {
		t.Fatalf("%s: %v", r, err)
	}
}

// lacks returns an error unless a path of keys leads to something, through every item of the lists on its way. A list
// is never null.
func lacks(value any, path []string) error {
	if len(path) == 0 {
		return nil
	}
	key, isList := strings.CutSuffix(path[0], "[]")
	if key != "" {
		object, isObject := value.(map[string]any)
		if !isObject {
			return fmt.Errorf("%v has no keys", value)
		}
		var exists bool
		if value, exists = object[key]; !exists {
			return fmt.Errorf("no %s", key)
		}
	}
	if !isList {
		return lacks(value, path[1:])
	}
	list, ok := value.([]any)
	if !ok {
		return fmt.Errorf("%s is %v, not a list", path[0], value)
	}
	for _, item := range list {
		if err := lacks(item, path[1:]); err != nil {
			return err
		}
	}
	return nil
}
