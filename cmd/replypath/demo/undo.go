package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"replypath/cmd/replypath/demo/network"
	"replypath/loader/pins"
)

// showUndone ends the service, which changes nothing for the replies, and then
// takes replypath away, which does.
func (d *demo) showUndone(ctx context.Context, s *service) error {
	d.heading("The end: the daemon gets SIGTERM, then replypath detach")
	if err := s.stop(); err != nil {
		return err
	}
	asking, giveUp := context.WithTimeout(ctx, answerTime)
	defer giveUp()
	q := newQuestion(d.net, kinds[0], network.IPv4, 0)
	q.put(asking)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d.require(q.answered(), "after the end of the daemon %s to %s was not answered", q.name, q.target())
	if q.answered() {
		d.good("%s to %s is answered without the daemon: what is in the kernel stays", q.name, q.target())
	} else {
		d.bad("%s to %s is not answered without the daemon", q.name, q.target())
	}
	return d.detach(ctx)
}

func (d *demo) detach(ctx context.Context) error {
	output, err := call(ctx, d.net.B.Host, "detach")
	if err != nil {
		return err
	}
	removed := strings.Split(strings.TrimSpace(string(output)), "\n")
	_, err = os.Stat(pins.DefaultDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for pins: %w", err)
	}
	d.require(err != nil, "replypath detach left %s", pins.DefaultDir)
	for _, line := range removed {
		d.quote(line)
	}
	return nil
}
