// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"replypath/test/bench/contender"
)

// Shared is what is made once for all contenders and rounds.
type Shared struct {
	halfLoad int
	database *database
}

// Close removes it.
func (s *Shared) Close() error {
	if s.database == nil {
		return nil
	}
	return s.database.remove()
}

// calibration is how long the full load is measured.
const calibration = 500 * time.Millisecond

// HalfLoad returns half of the datagrams a second that udp-echo-64 reaches by the
// static route, the same for every contender.
func (s *Shared) HalfLoad(ctx context.Context) (int, error) {
	if s.halfLoad != 0 {
		return s.halfLoad, nil
	}
	full, err := fullLoad(ctx)
	if err != nil {
		return 0, fmt.Errorf("find out what half of the load is: %w", err)
	}
	s.halfLoad = max(1, int(full/2))
	return s.halfLoad, nil
}

func fullLoad(ctx context.Context) (rate float64, err error) {
	static, err := contender.Named(contender.Static)
	if err != nil {
		return 0, err
	}
	site, err := contender.NewSite(ctx, contender.SiteOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	if _, err := static[0].SetUp(ctx, site, contender.Options{}); err != nil {
		return 0, err
	}
	work, err := udpEcho(64, 1)(ctx, site, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	return work.Run(ctx, calibration)
}
