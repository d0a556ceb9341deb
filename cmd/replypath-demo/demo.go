// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"

	"replypath/test/topology"
)

// demo is what the steps share.
type demo struct {
	*page
	program    string
	net        *topology.S1
	eth0, eth1 way
}

// newDemo builds the network, whose routers have a policy.
func newDemo(ctx context.Context, program string, policy topology.Policy, out io.Writer) (*demo, error) {
	n, err := topology.NewS1(ctx, topology.S1Options{Policy: policy})
	if err != nil {
		return nil, err
	}
	d := &demo{page: newPage(out), program: program, net: n, eth0: way{Interface: n.B.Eth0}, eth1: way{Interface: n.B.Eth1}}
	for _, w := range []*way{&d.eth0, &d.eth1} {
		if w.capture, err = w.Peer().Capture(topology.CaptureOptions{}); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return d, nil
}

// way is an interface of B's, with the frames that the router's end of its cable gets: what is there has really left B.
type way struct {
	*topology.Interface
	capture *topology.Capture
}

// replies returns those to questions, in the order of the questions.
func (w way) replies(questions ...*question) []*topology.Frame {
	var found []*topology.Frame
	for _, q := range questions {
		found = append(found, w.capture.Frames(q.isReply)...)
	}
	return found
}
