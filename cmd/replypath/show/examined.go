// SPDX-License-Identifier: Apache-2.0

package show

import (
	"errors"

	"replypath/cmd/replypath/cli"
	pinned "replypath/loader/datapath"
	"replypath/loader/doctor"
	"replypath/loader/status"
	"replypath/metrics"
)

// examined says what doctor looks at: by the configuration in force, unless a file is named.
func examined(pinDir string, file *cli.ConfigFile) (doctor.Options, error) {
	options := doctor.Options{PinDir: pinDir, Traffic: countedPairs}
	if !file.Named() {
		return options, nil
	}
	var err error
	options.Config, _, err = file.Load()
	options.ConfigPath = file.Path
	return options, err
}

// countedPairs reads for which interfaces a datapath has counted what.
func countedPairs(pinDir string) ([]doctor.Counted, error) {
	maps, err := pinned.OpenMaps(pinDir)
	if err != nil {
		return nil, err
	}
	traffic, err := status.ReadTraffic(pinDir, maps)
	if err := errors.Join(err, maps.Close()); err != nil {
		return nil, err
	}
	return byPair(traffic), nil
}

// byPair adds up what was counted for the families and protocols of a pair of interfaces.
func byPair(traffic *status.Traffic) []doctor.Counted {
	var counted []doctor.Counted
	at := map[[2]string]int{}
	of := func(p metrics.Pair) *doctor.Counted {
		key := [2]string{p.From, p.To}
		if _, known := at[key]; !known {
			at[key] = len(counted)
			counted = append(counted, doctor.Counted{From: p.From, To: p.To, Uncorrected: map[string]uint64{}})
		}
		return &counted[at[key]]
	}
	for _, p := range traffic.Pairs {
		c := of(p.Pair)
		c.Asymmetric, c.Corrected = c.Asymmetric+p.AsymmetricPackets, c.Corrected+p.CorrectedPackets
	}
	for _, u := range traffic.Uncorrected {
		of(u.Pair).Uncorrected[u.Reason] += u.Packets
	}
	return counted
}
