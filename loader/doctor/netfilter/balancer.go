package netfilter

import (
	"os"
	"strings"
)

// Services counts the virtual services of IPVS in this network namespace. The
// format is that of ip_vs_info_seq_show(): a line begins with the protocol.
func Services() int {
	text, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	if err != nil {
		return 0 // the kernel does not balance
	}
	return countServices(string(text))
}

func countServices(text string) int {
	count := 0
	for line := range strings.Lines(text) {
		word, _, _ := strings.Cut(line, " ")
		switch word {
		case "TCP", "UDP", "SCTP", "FWM":
			count++
		}
	}
	return count
}
