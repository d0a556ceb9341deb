// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestHang: every command that judges says so of a daemon that has not worked for 90 s, whose replies leave right all the same.
// The time passes by what the daemon leaves behind.
func TestHang(t *testing.T) {
	n, p := server.NewExact(t)
	d := p.Start()
	p.Expect(0, "status")
	d.Signal(unix.SIGSTOP)
	await.Eventually(t, "the daemon is said to hang", func() error {
		before := time.Now().Add(-95 * time.Second)
		if err := os.Chtimes(p.PinDir, before, before); err != nil {
			return err
		}
		for _, command := range []string{"status", "doctor", "plan"} {
			said := p.Run(command)
			if said.Code != 3 || !strings.Contains(said.Stdout, "the daemon hangs: its last pass was 1m35s ago") {
				return fmt.Errorf("%s", said)
			}
		}
		return nil
	})
	wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), true)
	d.Signal(unix.SIGCONT)
	await.Eventually(t, "it goes on", func() error {
		if said := p.Run("status"); said.Code != 0 {
			return fmt.Errorf("%s", said)
		}
		return nil
	})
}
