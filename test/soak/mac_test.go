// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"net"
	"time"

	"replypath/test/topology"
)

// routerMAC is one that a router has, or had until some time.
type routerMAC struct {
	mac net.HardwareAddr
	to  time.Time
}

// routerChanged notes that the router behind an interface has another MAC now. What left
// until then had to be for either.
func (j *judge) routerChanged(name string, mac net.HardwareAddr) {
	all := j.routers[name]
	all[len(all)-1].to = time.Now()
	j.routers[name] = append(all, routerMAC{mac, forever})
}

// judgeMAC tells whether a packet by an interface is for the router there, and if it is
// for the MAC that this had a moment ago, by which event.
func (j *judge) judgeMAC(name string, frame *topology.Frame) (event string, right bool) {
	for _, one := range j.routers[name] {
		late := frame.Time.Sub(one.to)
		switch {
		case !bytes.Equal(one.mac, frame.DestinationMAC) || late >= knownWithin:
		case late < 0:
			return "", true
		default:
			j.latestMAC = max(j.latestMAC, late)
			return "a new gateway mac", true
		}
	}
	return "", false
}
