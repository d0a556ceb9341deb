// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// Watch returns a channel that tells when a socket is asked that needs the
// programs, once for any number of questions that come together, until stop is
// called. The map may be closed meanwhile.
func Watch(wanted *ebpf.Map) (asked <-chan struct{}, stop func(), err error) {
	clone, err := wanted.Clone()
	if err != nil {
		return nil, nil, fmt.Errorf("watch for questions to udp sockets: %w", err)
	}
	reader, err := ringbuf.NewReader(clone)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("watch for questions to udp sockets: %w", err), clone.Close())
	}
	told, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		tell(reader, told)
	}()
	return told, func() {
		reader.Close()
		<-ended
		clone.Close()
	}, nil
}

// tell passes on that there are records until the reader is closed.
func tell(reader *ringbuf.Reader, told chan<- struct{}) {
	var record ringbuf.Record
	for {
		if reader.ReadInto(&record) != nil {
			return
		}
		select {
		case told <- struct{}{}:
		default: // the last has not been taken yet
		}
	}
}
