// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// reader is a reading command, and what it has to say.
type reader struct {
	args  []string
	says  string        // of a whole datapath with a flow
	none  int           // its exit code where nothing is attached; 0: it ends without an error all the same
	found *atomic.Int64 // how often it has found a datapath
}

func readersOf(c *traffic.Conversation) (all []reader) {
	peer, self := c.Peer.Addr().String(), c.Self.Addr().String()
	for _, r := range []struct {
		args, says string
		none       int
	}{
		{"status", `"capacity"`, 3},
		{"mode", `"enforce"`, 1},
		{"trace --count 1 --peer " + peer + " --self " + self, `"interface_in":"eth1"`, 1},
		{"flows", fmt.Sprintf(`"peer_port": %d`, c.Peer.Port()), 1},
		{"flows --follow --limit 1", fmt.Sprintf(`"peer_port":%d`, c.Peer.Port()), 1},
		{"explain --protocol tcp --peer " + c.Peer.String() + " --self " + c.Self.String(), `"corrected"`, 1},
		{"doctor", `"ok"`, 0},
		{"top --interval 100ms --count 3", `"enforce"`, 1},
	} {
		all = append(all, reader{strings.Fields(r.args + " -o json"), r.says, r.none, new(atomic.Int64)})
	}
	return all
}

// wrong returns why an answer is not one of a whole datapath, or, where there may be none, of a host without one.
func (r reader) wrong(result *product.Result, dir string, mayBeNone bool) (err error) {
	decoder := json.NewDecoder(strings.NewReader(result.Stdout))
	for document := any(nil); err == nil; err = decoder.Decode(&document) {
	}
	switch {
	case !errors.Is(err, io.EOF):
		err = fmt.Errorf("no whole document: %w", err)
	case mayBeNone && r.none != 0 && result.Code == r.none && strings.Contains(result.Stderr, "no datapath is pinned in "+dir):
		return nil
	// While a start is under way there are pins already.
	case mayBeNone && result.Code == 3 && strings.Contains(result.Stderr, "no interface is attached") && result.Stdout != "":
		return nil
	case result.Code != 0 || result.Stderr != "":
		err = errors.New("an error")
	case !mayBeNone && !strings.Contains(result.Stdout, r.says):
		err = fmt.Errorf("it does not say %s", r.says)
	default:
		return nil
	}
	return fmt.Errorf("%w: %.2000s (exit %d)", err, result, result.Code)
}

// TestReadingCommandsBesideWriters runs the reading commands, one process after the
// other, while the daemon is killed and started and reads configurations with tables of
// other sizes, which every one of them has to see whole, with a flow; and while everything
// is detached and started anew.
func TestReadingCommandsBesideWriters(t *testing.T) {
	n, p := server.New(t)
	config := product.WriteConfig(t, product.SmallTables)
	start := func() *product.Daemon { return p.Start("--config", config, "--listen", "") }
	d := start()
	c := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
	traffic.Ask(t, c)
	readBeside(t, p, c, "restarts and reloads", 2, false, func(i int) {
		if i%2 == 0 {
			d.Kill()
			d = start()
			return
		}
		await.Must(t, os.WriteFile(config, fmt.Appendf(nil, "flow_table: {max_entries: %d}\n", 1024<<(i%5)), 0o600))
		d.Reload()
	})
	readBeside(t, p, c, "detachments and starts", 1, true, func(int) {
		d.Stop(unix.SIGTERM)
		p.Detach()
		d = start()
	})
}

// readBeside writes in so many ways while everybody reads, and wants no error. Every reader has to find what each writing
// left.
func readBeside(t *testing.T, p *product.Product, c *traffic.Conversation, what string, kinds int, mayBeNone bool, write func(int)) {
	t.Helper()
	var reads, failed, none atomic.Int64
	var reading sync.WaitGroup
	talk := c.Keep(t) // until the last trace has its packet; any router lets it be answered where nothing is attached
	defer talk.Stop()
	defer reading.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	readers := readersOf(c)
	for _, r := range readers {
		reading.Go(func() {
			for ctx.Err() == nil {
				result := p.Run(r.args...)
				reads.Add(1)
				if result.Code != 0 {
					none.Add(1)
				} else {
					r.found.Add(1)
				}
				if err := r.wrong(result, p.PinDir, mayBeNone); err != nil && failed.Add(1) <= 10 {
					t.Error(err)
				}
			}
		})
	}
	writes := max(kinds, times(t, kinds)/10)
	for i := range writes {
		write(i)
		for _, r := range readers {
			enough := r.found.Load() + 2               // one may be under way
			within := await.Within(t, await.StartTime) // explain has the verifier look at a program, as a start has
			for r.found.Load() < enough {
				if within.Err() != nil {
					t.Fatalf("%s does not find what there is: %d times of %d", r.args[0], r.found.Load(), enough)
				}
				time.Sleep(await.Poll)
			}
		}
	}
	stop()
	reading.Wait()
	t.Logf("%d processes read beside %d %s: %d found nothing attached, %d errors", reads.Load(), writes, what, none.Load(), failed.Load())
}
