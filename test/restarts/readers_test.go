package restarts

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// readFor is how long processes read beside each kind of writer.
const readFor = 9 * time.Second

// askEvery is the pace of the conversation that is read about.
const askEvery = 5 * time.Millisecond

// reader is a reading command, and what it has to say of a flow.
type reader struct {
	args []string
	says string
	// none is its exit code where nothing is attached.
	none int
}

func readersOf(c *harness.Conversation) []reader {
	port := fmt.Sprint(c.Peer.Port())
	return []reader{
		{[]string{"status", "-o", "json"}, `"capacity"`, 3},
		{[]string{"mode", "-o", "json"}, `"enforce"`, 1},
		// One packet of the conversation, which goes on meanwhile.
		{[]string{"trace", "-o", "json", "--count", "1", "--peer", c.Peer.Addr().String(), "--self", c.Self.Addr().String()},
			`"interface_in":"eth1"`, 1},
		{[]string{"flows", "-o", "json"}, `"peer_port": ` + port, 1},
		{[]string{"explain", "-o", "json", "--protocol", "tcp", "--peer", c.Peer.String(), "--self", c.Self.String()}, `"corrected"`, 1},
	}
}

// wrong returns why an answer is not one of a whole datapath, or, where there may be
// none, of a host without one.
func (r reader) wrong(result *harness.Result, dir string, mayBeNone bool) error {
	if mayBeNone && result.Code == r.none && strings.Contains(result.Stderr, "no datapath is pinned in "+dir) {
		return nil
	}
	// While a start is under way there are pins already.
	if mayBeNone && result.Code == 3 && strings.Contains(result.Stderr, "no interface is attached") && json.Valid([]byte(result.Stdout)) {
		return nil
	}
	switch {
	case result.Code != 0 || result.Stderr != "":
		return fmt.Errorf("%s", result)
	case !json.Valid([]byte(result.Stdout)):
		return fmt.Errorf("no whole document: %s", result)
	case !mayBeNone && !strings.Contains(result.Stdout, r.says):
		return fmt.Errorf("it does not say %s: %s", r.says, result)
	}
	return nil
}

// TestReadingCommandsBesideWriters runs the reading commands, one process after the
// other, while the daemon is killed and started and reads configurations with tables of
// other sizes, which every one of them has to see whole, with a flow; and while everything
// is detached and started anew.
func TestReadingCommandsBesideWriters(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := harness.WriteConfig(t, harness.SmallTables)
	start := func() *harness.Daemon { return p.Start("--config", config, "--listen", "") }
	d := start()
	c := harness.NewConversation(t, harness.TCP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
	harness.Must(t, c.Ask(harness.Within(t, harness.AnswerTime)))
	readBeside(t, p, c, "restarts and reloads", false, func(i int) {
		if i%2 == 0 {
			d.Kill()
			d = start()
			return
		}
		harness.Must(t, os.WriteFile(config, fmt.Appendf(nil, "flow_table: {max_entries: %d}\n", 1024<<(i%5)), 0o600))
		d.Reload()
	})
	readBeside(t, p, c, "detachments and starts", true, func(int) {
		d.Stop(unix.SIGTERM)
		p.Detach()
		d = start()
	})
}

// goOn asks every few milliseconds until ctx ends. Every router takes any source: it has to be
// answered also where nothing is attached.
func goOn(ctx context.Context, t *testing.T, c *harness.Conversation) {
	for ticker := time.NewTicker(askEvery); ; {
		select {
		case <-ctx.Done():
			ticker.Stop()
			return
		case <-ticker.C:
			if err := c.Ask(harness.Within(t, harness.AnswerTime)); err != nil {
				t.Error(err)
			}
		}
	}
}

// readBeside reads for as long as it says, and writes meanwhile, and wants no error. Where
// there may be nothing to read, somebody has to find what each writing left.
func readBeside(t *testing.T, p *harness.Product, c *harness.Conversation, what string, mayBeNone bool, write func(int)) {
	t.Helper()
	var reads, failed, none, found atomic.Int64
	var reading sync.WaitGroup
	defer reading.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	reading.Go(func() { goOn(ctx, t, c) })
	for _, r := range readersOf(c) {
		reading.Go(func() {
			for ctx.Err() == nil {
				result := p.Run(r.args...)
				reads.Add(1)
				if result.Code != 0 {
					none.Add(1)
				} else {
					found.Add(1)
				}
				if err := r.wrong(result, p.PinDir, mayBeNone); err != nil && failed.Add(1) <= 3 {
					t.Error(err)
				}
			}
		})
	}
	writes := 0
	for end := time.Now().Add(readFor); time.Now().Before(end); writes++ {
		before := found.Load()
		write(writes)
		harness.Eventually(t, "somebody finds something", func() error {
			if found.Load() == before {
				return fmt.Errorf("%d reads, %d found nothing", reads.Load(), none.Load())
			}
			return nil
		})
	}
	stop()
	reading.Wait()
	t.Logf("%d processes read beside %d %s: %d found nothing attached, %d errors", reads.Load(), writes, what, none.Load(), failed.Load())
}
