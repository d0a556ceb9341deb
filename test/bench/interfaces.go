// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"replypath/test/bench/contender"
	"replypath/test/bench/report"
	"replypath/test/topology"
)

const (
	manyInterfaces = 500
	// manyBound is how many seconds they may take.
	manyBound = 5
)

// interfaceFigures measures how long it takes until many interfaces are attached, by each mechanism.
func interfaceFigures(ctx context.Context) (figures []report.Figure, err error) {
	network := topology.New(topology.Options{NoIPv6: true})
	defer func() { err = errors.Join(err, network.Close()) }()
	server, err := manyInterfaced(ctx, network)
	if err != nil {
		return nil, err
	}
	for _, mechanism := range []string{"tcx", "clsact"} {
		found, err := attachmentFigures(ctx, server, mechanism)
		if err != nil {
			return figures, fmt.Errorf("%s: %w", mechanism, err)
		}
		figures = append(figures, found...)
	}
	return figures, nil
}

// manyInterfaced returns a host with manyInterfaces.
func manyInterfaced(ctx context.Context, network *topology.Network) (*topology.Host, error) {
	server, err := network.Host("server")
	if err != nil {
		return nil, err
	}
	switches, err := network.Host("switches")
	if err != nil {
		return nil, err
	}
	for i := range manyInterfaces {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		address := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 100})
		_, _, err := network.Connect(
			topology.NIC{Host: server, Name: fmt.Sprintf("eth%d", i), Addresses: []netip.Prefix{netip.PrefixFrom(address, 24)}},
			topology.NIC{Host: switches, Name: fmt.Sprintf("port%d", i)})
		if err != nil {
			return nil, err
		}
	}
	return server, nil
}

// attachmentFigures starts replypath, and ends it again.
func attachmentFigures(ctx context.Context, server *topology.Host, mechanism string) (figures []report.Figure, err error) {
	daemon, err := contender.StartDaemon(ctx, server, contender.Options{}, "--mechanism", mechanism)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, daemon.Stop()) }()
	resident, err := residentMemory(daemon.PID())
	if err != nil {
		return nil, err
	}
	with := fmt.Sprintf(" with %d interfaces by %s", manyInterfaces, mechanism)
	return []report.Figure{
		report.NewFigure("start to READY"+with, "s", daemon.ReadyAfter.Seconds()).Within(manyBound),
		report.NewFigure("resident memory"+with, "MiB", float64(resident)/mebibyte).Within(residentBound),
	}, nil
}
