package gather

import (
	"errors"
	"fmt"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// modes notes where replies are corrected, as the programs decide it: by the mode that
// was set by hand, else by that of the interface. What cannot be read is not known to
// enforce.
func modes(pinDir string) (map[int]bool, error) {
	maps, err := datapath.OpenMaps(pinDir)
	if err != nil {
		return nil, nil // nothing is attached, or another version is: flows says so
	}
	enforces, err := enforcing(maps)
	return enforces, errors.Join(err, maps.Close())
}

func enforcing(maps *bpf.DatapathMaps) (map[int]bool, error) {
	var byHand bpf.DatapathMode
	if err := maps.ModeByHand.Lookup(uint32(0), &byHand); err != nil {
		return nil, fmt.Errorf("read the mode that was set by hand: %w", err)
	}
	enforces := make(map[int]bool)
	var id uint32
	var entry bpf.DatapathInterface
	all := maps.Interfaces.Iterate()
	for all.Next(&id, &entry) {
		mode := bpf.DatapathMode(entry.Mode)
		if byHand != bpf.DatapathModeMODE_CONFIGURED {
			mode = byHand
		}
		if entry.Ifindex != 0 {
			enforces[int(entry.Ifindex)] = mode == bpf.DatapathModeMODE_ENFORCE
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read the modes of the interfaces: %w", err)
	}
	return enforces, nil
}
