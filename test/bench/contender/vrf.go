package contender

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/topology"
)

// vrfDevice is the VRF that eth1 belongs to.
const vrfDevice = "replication"

// vrf is the one contender that servers take part in: their sockets belong to it.
func vrf() *Contender {
	return &Contender{
		Name: VRF, About: "eth1 in a VRF of its own, to which the server's sockets are bound", ownDevice: true,
		setUp: func(ctx context.Context, s *Site, _ Options) (Running, error) { return nothing{}, setUpVRF(ctx, s) },
	}
}

func setUpVRF(ctx context.Context, s *Site) error {
	if err := addVRF(s.Server); err != nil {
		return err
	}
	device, err := s.Server.Netlink().LinkByName(vrfDevice)
	if err != nil {
		return err
	}
	if err := s.Server.Netlink().LinkSetUp(device); err != nil {
		return fmt.Errorf("set %s up: %w", vrfDevice, err)
	}
	port, err := s.Eth1.Link()
	if err != nil {
		return err
	}
	if err := s.Server.Netlink().LinkSetMaster(port, device); err != nil {
		return fmt.Errorf("make eth1 a port of %s: %w", vrfDevice, err)
	}
	if err := s.Eth1.WaitReady(ctx); err != nil {
		return err
	}
	s.Device = vrfDevice
	// TCP servers that are not bound get connections that are.
	if err := s.Server.SetSysctl("net/ipv4/tcp_l3mdev_accept", "1"); err != nil {
		return err
	}
	return addTable(s)
}

func addVRF(host *topology.Host) error {
	device := &netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: vrfDevice}, Table: table}
	if err := host.Netlink().LinkAdd(device); err != nil {
		return fmt.Errorf("make a VRF: %w", err)
	}
	return nil
}

// vrfMissing says why there can be no VRF here, or "".
func vrfMissing() (reason string, err error) {
	network := topology.New(topology.Options{NoIPv6: true})
	defer func() { err = errors.Join(err, network.Close()) }()
	host, err := network.Host("vrf")
	if err != nil {
		return "", err
	}
	err = addVRF(host)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return "this kernel has no VRF: make test-kernels SUITES=bench measures it in a virtual machine", nil
	}
	return "", err
}
