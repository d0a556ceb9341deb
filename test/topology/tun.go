// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ConnectTun joins two tun devices, whose frames begin with the IP header, and sets both up. This process carries their
// packets.
func (n *Network) ConnectTun(a, b NIC) (*Interface, *Interface, error) {
	ia, fa, err := n.addTun(a)
	if err != nil {
		return nil, nil, fmt.Errorf("connect %s with %s: %w", a, b, err)
	}
	ib, fb, err := n.addTun(b)
	if err != nil {
		return nil, nil, fmt.Errorf("connect %s with %s: %w", a, b, err)
	}
	ia.peer, ib.peer = ib, ia
	go carry(fa, fb)
	go carry(fb, fa)
	return ia, ib, nil
}

// carry writes each packet that one device sends into the other, until the network is closed. What the other does not
// take is lost, as on any wire.
func carry(from, to *os.File) {
	packet := make([]byte, 1<<16)
	for {
		length, err := from.Read(packet)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err == nil {
			_, err = to.Write(packet[:length])
		}
		if errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// addTun makes a device that is there for as long as the file is open.
func (n *Network) addTun(nic NIC) (*Interface, *os.File, error) {
	var file *os.File
	err := nic.Host.Do(func() (err error) {
		file, err = openTun(nic.Name)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("add tun device: %w", err)
	}
	if err := n.onClose(file.Close); err != nil {
		return nil, nil, err
	}
	i, err := nic.configure()
	if err != nil {
		return nil, nil, err
	}
	if nic.MTU != 0 {
		err = i.SetMTU(nic.MTU)
	}
	n.mu.Lock()
	n.interfaces = append(n.interfaces, i)
	n.mu.Unlock()
	return i, file, err
}

// tunRequest is struct ifreq of linux/if.h with its ifr_flags.
type tunRequest struct {
	name  [unix.IFNAMSIZ]byte
	flags uint16
	_     [22]byte
}

// openTun makes a tun device in the namespace of the calling thread.
func openTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request := tunRequest{flags: unix.IFF_TUN | unix.IFF_NO_PI}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return nil, errors.Join(errno, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}
