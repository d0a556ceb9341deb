// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"os/signal"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// TestManyHangups: however many reloads wait, the end is told, and they become one.
func TestManyHangups(t *testing.T) {
	reload, end, stop := daemonSignals()
	defer stop()
	witness := make(chan os.Signal, 1) // the kernel makes one of those that it has not delivered
	signal.Notify(witness, unix.SIGHUP, unix.SIGTERM)
	defer signal.Stop(witness)
	const hangups = 10
	for i := range hangups + 1 {
		sent := unix.SIGHUP
		if i == hangups {
			sent = unix.SIGTERM
		}
		await.Must(t, unix.Kill(unix.Getpid(), sent))
		await.Receive(t, witness)
	}
	if got := await.Receive(t, end); got != unix.SIGTERM {
		t.Errorf("got %v", got)
	}
	if got := await.Receive(t, reload); got != unix.SIGHUP || len(reload) != 0 {
		t.Errorf("got %v, and %d wait", got, len(reload))
	}
	t.Logf("%d hangups became one reload, and the end was told", hangups)
}
