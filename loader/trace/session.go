// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/explain"
	"replypath/loader/pins"
)

// How the programs are kept telling: for a few seconds, said again every second,
// so that they do not go on long after a tracer was killed.
const (
	holdFor    = 3 * time.Second
	renewEvery = time.Second
	// patience is how long a moved packet is waited for at its target, which it
	// reaches within microseconds.
	patience = 100 * time.Millisecond
)

// session is one trace.
type session struct {
	dir    string
	lock   *os.File
	maps   *bpf.Maps
	events *ringbuf.Reader
	filter bpf.DatapathTraceRequest
	names  *names
	host   *explain.Host

	joiner  joiner
	renewed time.Time
	lost    uint64 // events, until now
	told    uint64 // of them those that were reported
}

func openSession(pinDir string) (*session, error) {
	s := &session{dir: pinDir, joiner: make(joiner)}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *session) open() (err error) {
	if s.host, err = explain.OpenHost(s.dir); err != nil {
		return err
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	if s.maps, err = datapath.OpenMaps(s.dir); err != nil {
		return err
	}
	if s.events, err = ringbuf.NewReader(s.maps.TraceEvents); err != nil {
		return fmt.Errorf("open the buffer of traced packets: %w", err)
	}
	s.names = newNames()
	return nil
}

// takeLock locks the directory of the links, on which nobody else has a lock; the
// lock ends with the process, whatever ends it.
func (s *session) takeLock() (err error) {
	path := filepath.Join(s.dir, datapath.LinksDir)
	s.lock, err = os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w in %s: start replypath run", pins.ErrNone, s.dir)
	}
	if err != nil {
		return fmt.Errorf("open the directory of the links: %w", err)
	}
	err = unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w on %s: end it first", ErrBusy, s.dir)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	return nil
}

// Close ends the trace: the programs are told that nobody asks any more.
func (s *session) Close() error {
	var errs []error
	if !s.renewed.IsZero() {
		errs = append(errs, s.putFilter(0))
	}
	if s.events != nil {
		errs = append(errs, s.events.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	if s.maps != nil {
		errs = append(errs, s.maps.Close())
	}
	if s.host != nil {
		errs = append(errs, s.host.Close())
	}
	return errors.Join(errs...)
}

// isThere returns an error that matches pins.ErrNone where what is traced is not in place any more: all was
// taken away since the trace began, or a version with another layout took over. What may be there now has
// another buffer, of which this trace would hear nothing.
func (s *session) isThere() error {
	there, err := datapath.IsPinned(s.dir, bpf.DatapathMapTraceEvents, s.maps.TraceEvents)
	if err == nil && !there {
		err = fmt.Errorf("%w in %s that was there when the trace began: start it again", pins.ErrNone, s.dir)
	}
	return err
}

// renew asks for some seconds more.
func (s *session) renew() error {
	if err := s.isThere(); err != nil {
		return err
	}
	clock, err := datapath.ReadClock(s.dir)
	if err != nil {
		return err
	}
	if s.names.offset, err = monotonicOffset(); err != nil {
		return err
	}
	s.renewed = time.Now()
	s.names.forget()
	return errors.Join(s.host.Refresh(), s.putFilter(clock.After(holdFor)))
}

func (s *session) putFilter(until uint32) error {
	s.filter.Until = until
	if err := s.maps.TraceFilter.Set(s.filter); err != nil {
		return fmt.Errorf("write what is traced: %w", err)
	}
	return nil
}

// countLost returns how many events found no room, since the programs were loaded.
func (s *session) countLost() (sum uint64, err error) {
	var counts []uint64
	if err := s.maps.Events.Lookup(bpf.DatapathEventEVENT_TRACE_LOST, &counts); err != nil {
		return 0, fmt.Errorf("read how many packets were not told of: %w", err)
	}
	for _, count := range counts {
		sum += count
	}
	return sum, nil
}

// monotonicOffset is what is added to bpf_ktime_get_ns() to get the time of day.
func monotonicOffset() (time.Duration, error) {
	now, err := datapath.Now()
	return time.Duration(time.Now().UnixNano() - int64(now)), err
}
