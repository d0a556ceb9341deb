// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"github.com/vishvananda/netlink"

	"replypath/loader/config"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/pins"
)

// Options say what is examined.
type Options struct {
	PinDir string
	// Config is what is examined; nil for the configuration in force, or what a start would read.
	Config *config.Config
	// ConfigPath is the file of Config, to be named where a change of it is proposed.
	ConfigPath string
	// Quiet: nobody is asked anything, and nothing is waited for. Gateways are known by their last answers.
	Quiet bool
}

// gatherer fills a snapshot.
type gatherer struct {
	Options
	netlink *netlink.Handle
	links   []netlink.Link
	journal *pins.Journal // nil: none, or it may not be read
	host    *snapshot.Host
}
