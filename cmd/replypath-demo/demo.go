// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"

	"replypath/test/topology"
)

// demo is what the steps share.
type demo struct {
	out     io.Writer
	program string
	net     *topology.S1
	open    []io.Closer // servers, and connections to them
	opening sync.Mutex

	steps   int
	missing []string // what should have been seen and was not
	err     error    // the first of writing
}

// serverPort is where B takes connections. Nobody accepts them: the kernel has answered by then.
const serverPort = 7000

// newDemo builds the network, whose routers have a policy.
func newDemo(ctx context.Context, program string, policy topology.Policy, out io.Writer) (*demo, error) {
	n, err := topology.NewS1(ctx, topology.S1Options{Policy: policy})
	if err != nil {
		return nil, err
	}
	d := &demo{out: out, program: program, net: n}
	for _, f := range n.Families() {
		server, err := n.B.Listen(ctx, "tcp", netip.AddrPortFrom(n.B.Eth1.Address(f), serverPort).String())
		if err != nil {
			return nil, errors.Join(err, d.close())
		}
		d.open = append(d.open, server)
	}
	return d, nil
}

func (d *demo) close() error {
	var errs []error
	for _, open := range slices.Backward(d.open) {
		errs = append(errs, open.Close())
	}
	return errors.Join(append(errs, d.net.Close())...)
}

// line writes a line, below a heading a little to the right.
func (d *demo) line(format string, args ...any) { d.write("   "+format, args...) }

// heading begins the next step.
func (d *demo) heading(format string, args ...any) {
	d.steps++
	d.write("\n%d. %s", d.steps, fmt.Sprintf(format, args...))
}

func (d *demo) write(format string, args ...any) {
	_, err := fmt.Fprintf(d.out, format+"\n", args...)
	if d.err == nil {
		d.err = err
	}
}

// require notes what should have been seen.
func (d *demo) require(seen bool, format string, args ...any) {
	if !seen {
		d.missing = append(d.missing, fmt.Sprintf(format, args...))
	}
}
