package health

import (
	"testing"

	"replypath/loader/doctor/snapshot"
	"replypath/test/testhost"
)

func TestMissingInterfaces(t *testing.T) {
	const (
		file = "interface eht1, which /etc/replypath/replypath.yaml names, is not there: nothing is done for it; eth1 is there"
		flag = "interface eht1, which --interface names, is not there: nothing is done for it; eth1 is there"
		mend = "replypath run --interface eth0 --interface eth1"
	)
	testhost.Check(t, MissingInterfaces, []testhost.Wants{
		{"none is named", nil, nil},
		{"all are there", testhost.Naming("eth1"), nil},
		{"a glob stands for what comes", testhost.Naming("wan*"), nil},
		{"by an alternative name", func(h *snapshot.Host) { testhost.Naming("uplink")(h); h.Devices[2].AltNames = []string{"uplink"} }, nil},
		{"a slip in the file", testhost.Naming("eht1"), []string{
			"error eht1: " + file + " => write eth1 in the place of eht1 under interfaces in /etc/replypath/replypath.yaml, then systemctl reload replypath",
		}},
		{"a slip on the command line", testhost.Flagged("eht1"), []string{"error eht1: " + flag + " => " + mend}},
		{"a slip on a daemon's command line", func(h *snapshot.Host) { testhost.Flagged("eht1")(h); h.Daemon = &snapshot.Daemon{PID: 7} }, []string{
			"error eht1: " + flag + " => " + mend + "  # in the place of the daemon that runs now",
		}},
		{"nothing like it", func(h *snapshot.Host) {
			testhost.Naming("wan")(h)
			h.Devices[2].AltNames = []string{"enp1s0", "uplink"}
		}, []string{
			"error wan: interface wan, which /etc/replypath/replypath.yaml names, is not there: nothing is done for it; there are eth0, eth1 (enp1s0, uplink)" +
				" ?? ip link show  # make it, or name one of these in /etc/replypath/replypath.yaml",
		}},
		{"another one of the same kind, which is named itself", func(h *snapshot.Host) { testhost.Naming("eth2")(h); h.Devices = h.Devices[:2] }, []string{
			"error eth2: interface eth2, which /etc/replypath/replypath.yaml names, is not there: nothing is done for it; there are eth0" +
				" ?? ip link show  # make it, or name one of these in /etc/replypath/replypath.yaml",
		}},
	})
}
