package counters

import (
	"os"
	"slices"
	"strconv"
	"strings"
)

// RPFilterDrops returns how many packets the reverse path filter has dropped in
// the network namespace of the calling thread, nil where the kernel does not
// tell.
func RPFilterDrops() *uint64 {
	text, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		return nil
	}
	return netstat(string(text), "TcpExt:", "IPReversePathFilter")
}

// netstat finds a counter: for each group there is a line of names, followed by
// one of values.
func netstat(text, group, name string) *uint64 {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i++ {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		column := slices.Index(names, name)
		if column < 0 || names[0] != group || column >= len(values) {
			continue
		}
		value, err := strconv.ParseUint(values[column], 10, 64)
		if err != nil {
			return nil
		}
		return &value
	}
	return nil
}
