// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"cmp"
	"fmt"
	"time"

	"replypath/loader/config"
	"replypath/loader/pins"
	"replypath/loader/status"
)

// State is what replypath itself is and does here.
type State struct {
	Config     *config.Config
	ConfigPath string
	PinDir     string
	Attached   bool           // a datapath is pinned
	Pinned     bool           // the pin directory is there, whether it may be read or not
	Elsewhere  *Elsewhere     // the datapath of another pin directory, nil for none; beside it none is started
	InForce    *InForce       // what it works by, nil for nothing
	Start      Start          // what a start takes
	Daemon     *Daemon        // who holds the pin directory, nil for nobody
	Status     *status.Status // what the datapath does, nil for none
	// Enforcing are the managed interfaces on which replies are corrected, by index;
	// none where nothing is attached, or where it cannot be told.
	Enforcing map[int]bool
}

// IsByUnit tells whether the unit's daemon uses the pin directory: it is the usual one.
func (s *State) IsByUnit() bool { return s.PinDir == "" || s.PinDir == pins.DefaultDir }

// Elsewhere is a datapath of this network namespace that is pinned in another directory.
type Elsewhere struct {
	Dir string // empty where it cannot be seen from here
	PID int    // of its daemon, 0 where that is not known
}

// String says where to ask.
func (e *Elsewhere) String() string {
	who := "of replypath in this network namespace"
	if e.PID != 0 {
		who += fmt.Sprintf(", pid %d", e.PID)
	}
	if e.Dir == "" {
		return "the pins " + who + " cannot be seen from here"
	}
	return "ask with --pin-dir " + e.Dir + ": the one " + who
}

// Daemon is a running replypath.
type Daemon struct {
	PID  int  // 0 where it cannot be told, or is of another PID namespace
	Unit bool // it was started by the unit
}

// InForce is what a datapath works by.
type InForce struct {
	Path     string // of the file, empty where it was started without one
	LoadedAt time.Time
	Config   *config.Config // nil where an earlier version has not written it down
	Running  bool           // a daemon follows the changes of this host
	Refused  string         // why a later configuration was refused, empty where none was
	// File says what has become of the file since, empty where it says the same; Wrong, that no
	// start and no reload takes it.
	File  string
	Wrong bool
}

// LoadedFrom is the path of the file, or of the one that a reload would read if it were there.
func (f *InForce) LoadedFrom() string { return cmp.Or(f.Path, config.DefaultPath) }

// Start is what a start takes; what is zero is there.
type Start struct {
	Place    error // why nothing can be pinned
	BTF      error // that the kernel has none
	Programs error // why it loads no programs
	Rights   []Right
	// Features are those of the kernel, as far as they can be told.
	Features []pins.FeatureRecord
}

// Right is a capability that this process lacks.
type Right struct{ Name, Purpose string }
