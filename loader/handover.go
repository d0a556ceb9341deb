package loader

import (
	"errors"
	"time"

	"replypath/loader/datapath"
)

// switchPatience is how long the programs of all interfaces may take to be replaced.
// Those for devices without an Ethernet header, and those of the source repair,
// are only loaded then.
const switchPatience = 30 * time.Second

// handOver attaches the programs of a datapath with other flow tables than the earlier one's.
func (l *Loader) handOver(to *datapath.Datapath, attach func() error) error {
	return inGrace(to, func() error {
		if err := to.Fill(); err != nil {
			return err
		}
		return attach()
	})
}

// switchTo attaches the programs of a datapath with other flow tables.
func (l *Loader) switchTo(to *datapath.Datapath) error {
	return l.handOver(to, func() error { return l.replacePrograms(to) })
}

// switchBack attaches the programs of the datapath in force once more.
func (l *Loader) switchBack() error {
	return inGrace(l.datapath, func() error { return l.replacePrograms(l.datapath) })
}

// inGrace attaches programs while what the host sends may answer a question that
// they do not know: the answer must not pass for a beginning.
func inGrace(to *datapath.Datapath, attach func() error) error {
	if err := to.Grace(switchPatience); err != nil {
		return err
	}
	return errors.Join(attach(), to.Grace(datapath.GracePeriod))
}
