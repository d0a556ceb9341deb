// SPDX-License-Identifier: Apache-2.0

package contender

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"replypath/test/topology"
)

// vrfDevice is the VRF that eth1 belongs to.
const vrfDevice = "replication"

// vrf is the one contender that servers take part in: their sockets belong to it. Those of programs need not be bound
// for TCP.
func vrf() *Contender {
	return &Contender{
		Name: VRF, About: "eth1 in a VRF of its own, to which the server's sockets are bound, or (programs) what they accept",
		setUp: func(ctx context.Context, s *Site, _ Options) (Running, error) { return nothing{}, setUpVRF(ctx, s) },
	}
}

func setUpVRF(ctx context.Context, s *Site) error {
	device, err := s.Server.AddVRF(vrfDevice, table)
	if err != nil {
		return err
	}
	if err := device.SetUp(); err != nil {
		return err
	}
	if err := s.Eth1.Enslave(device); err != nil {
		return err
	}
	if err := s.Eth1.WaitReady(ctx); err != nil {
		return err
	}
	s.Device = vrfDevice
	return errors.Join(addTable(s), serveEveryVRF(s))
}

// serveEveryVRF has TCP sockets that are bound to no device accept connections by every VRF, which then belong to it. An
// address of a VRF is none of the host's to them, so that they could not be bound to it otherwise
// (Documentation/networking/vrf.rst; net/ipv4/af_inet.c, __inet_bind).
func serveEveryVRF(s *Site) error {
	return errors.Join(
		s.Server.SetSysctl("net/ipv4/tcp_l3mdev_accept", "1"),
		s.Server.SetSysctl("net/ipv4/ip_nonlocal_bind", "1"))
}

// vrfMissing says why there can be no VRF here, or "".
func vrfMissing() (reason string, err error) {
	network := topology.New(topology.Options{NoIPv6: true})
	defer func() { err = errors.Join(err, network.Close()) }()
	host, err := network.Host("vrf")
	if err != nil {
		return "", err
	}
	_, err = host.AddVRF(vrfDevice, table)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return "this kernel has no VRF", nil
	}
	return "", err
}
