// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// readFor is how long processes read beside each kind of writer, and leastWrites how often it
// writes meanwhile at least: each of what it does in turn once.
const (
	readFor     = 9 * time.Second
	leastWrites = 2
)

// askEvery is the pace of the conversation that is read about.
const askEvery = 5 * time.Millisecond

// followFor is how long a command that follows goes on once it has told something: two looks
// of `flows --follow`, and a writing or two.
const followFor = 2 * time.Second

// reader is a reading command, and what it has to say.
type reader struct {
	args []string
	// says is wrong where the answer is not that of a whole datapath with a flow.
	says func(stdout string) error
	// none is its exit code where nothing is attached; 0: it ends without an error all the same,
	// and says is asked about that too.
	none int
	// follows: it goes on until it is interrupted.
	follows bool
}

func readersOf(c *harness.Conversation) []reader {
	port := fmt.Sprint(c.Peer.Port())
	return []reader{
		{args: []string{"status", "-o", "json"}, says: has(`"capacity"`), none: 3},
		{args: []string{"mode", "-o", "json"}, says: has(`"enforce"`), none: 1},
		// One packet of the conversation, which goes on meanwhile.
		{args: []string{"trace", "-o", "json", "--count", "1", "--peer", c.Peer.Addr().String(), "--self", c.Self.Addr().String()},
			says: has(`"interface_in":"eth1"`), none: 1},
		{args: []string{"flows", "-o", "json"}, says: has(`"peer_port": ` + port), none: 1},
		{args: []string{"explain", "-o", "json", "--protocol", "tcp", "--peer", c.Peer.String(), "--self", c.Self.String()},
			says: has(`"corrected"`), none: 1},
		{args: []string{"doctor", "-o", "json"}, says: isAllInOrder},
		{args: []string{"top", "-o", "json", "--interval", "100ms", "--count", "3"}, says: hasWholeLooks, none: 1},
		{args: []string{"top", "-o", "json", "--interval", "100ms"}, says: hasWholeLooks, none: 1, follows: true},
		{args: []string{"flows", "-o", "json", "--follow", "--limit", "1"}, says: has(`"event":"new"`, `"peer_port":`+port), none: 1},
		{args: []string{"flows", "-o", "json", "--follow"}, says: hasOneFlow(c), none: 1, follows: true},
	}
}

// has wants an answer with all of the words.
func has(words ...string) func(string) error {
	return func(stdout string) error {
		for _, word := range words {
			if !strings.Contains(stdout, word) {
				return fmt.Errorf("it does not say %s", word)
			}
		}
		return nil
	}
}

// isAllInOrder wants findings, none of which is a problem: nothing is wrong with this host, with
// a datapath and without. That no daemon runs, or that its file has changed, is true between writes.
func isAllInOrder(stdout string) error {
	findings, err := documents[harness.Findings](stdout)
	if err != nil {
		return err
	}
	if len(findings) != 1 || len(findings[0]) == 0 {
		return errors.New("nothing was examined")
	}
	for _, f := range findings[0] {
		if f.Severity != "ok" && f.Check != "configuration" {
			return fmt.Errorf("%s: %s is no fault of this host", f.Check, f.Found)
		}
	}
	return nil
}

// hasWholeLooks wants looks at both interfaces and all tables.
func hasWholeLooks(stdout string) error {
	looks, err := documents[harness.Look](stdout)
	if err != nil {
		return err
	}
	if len(looks) == 0 {
		return errors.New("no look")
	}
	for _, l := range looks {
		if l.Mode != "enforce" || len(l.FlowTables) != 3 || len(l.Interfaces) != 2 || !l.Interfaces[0].Attached || !l.Interfaces[1].Attached {
			return fmt.Errorf("mode %s, interfaces %+v, tables %+v", l.Mode, l.Interfaces, l.FlowTables)
		}
	}
	return nil
}

// hasOneFlow wants the flow of a conversation to be there from the beginning, in whichever
// tables, and nothing to become of it.
func hasOneFlow(c *harness.Conversation) func(string) error {
	type event struct {
		Event string
		harness.Flow
	}
	return func(stdout string) error {
		events, err := documents[event](stdout)
		if err != nil {
			return err
		}
		if len(events) != 1 || events[0].Event != "new" || events[0].PeerPort != c.Peer.Port() {
			return fmt.Errorf("not just that %s is there", c)
		}
		return nil
	}
}

// documents reads one JSON document after the other, the last of which has to be whole.
func documents[T any](text string) (all []T, err error) {
	for decoder := json.NewDecoder(strings.NewReader(text)); ; {
		var one T
		err := decoder.Decode(&one)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("no whole document: %w", err)
		}
		all = append(all, one)
	}
}

// run runs the command to its end, which for one that follows is an interrupt.
func (r reader) run(ctx context.Context, p *harness.Product) (*harness.Result, error) {
	if !r.follows {
		return p.Run(r.args...), nil
	}
	stdout, stderr := harness.NewLog(), harness.NewLog()
	c := p.Command(context.Background(), r.args...)
	c.Stdout, c.Stderr = stdout, stderr
	if err := c.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	told := make(chan error, 1)
	waiting, cancel := context.WithTimeout(context.Background(), harness.AnswerTime)
	defer cancel()
	go func() { told <- stdout.Wait(waiting, 1) }() // not interrupted before it knows what to do then
	err := error(nil)
	select {
	case err = <-ended:
	case err = <-told:
		if err == nil {
			err = interrupt(ctx, c, ended)
		} else {
			err = errors.Join(err, c.Process.Kill(), <-ended)
		}
	}
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("replypath %s: %w\n%s%s", strings.Join(r.args, " "), err, stdout, stderr)
	}
	return &harness.Result{Args: r.args, Code: c.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}, nil
}

// interrupt lets a command follow for a while, unless ctx ends before or it does so itself.
func interrupt(ctx context.Context, c *topology.Cmd, ended <-chan error) error {
	select {
	case err := <-ended:
		return err
	case <-time.After(followFor):
	case <-ctx.Done():
	}
	if err := c.Process.Signal(unix.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(err, c.Process.Kill(), <-ended)
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(harness.AnswerTime):
		return errors.Join(errors.New("it does not end by an interrupt"), c.Process.Kill(), <-ended)
	}
}

// wrong returns why an answer is not one of a whole datapath, or, where there may be
// none, of a host without one.
func (r reader) wrong(result *harness.Result, dir string, mayBeNone bool) error {
	_, err := documents[any](result.Stdout)
	switch {
	case err != nil:
	case mayBeNone && r.none != 0 && result.Code == r.none && strings.Contains(result.Stderr, "no datapath is pinned in "+dir):
		return nil
	// While a start is under way there are pins already.
	case mayBeNone && result.Code == 3 && strings.Contains(result.Stderr, "no interface is attached") && result.Stdout != "":
		return nil
	case result.Code != 0 || result.Stderr != "":
		err = errors.New("an error")
	case !mayBeNone || r.none == 0:
		err = r.says(result.Stdout)
	}
	if err != nil {
		err = fmt.Errorf("%w: %.2000s (exit %d)", err, result, result.Code)
	}
	return err
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
	harness.Ask(t, c)
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
	var talking, reading sync.WaitGroup
	defer talking.Wait()
	talk, fallSilent := context.WithCancel(t.Context())
	defer fallSilent()
	talking.Go(func() { goOn(talk, t, c) }) // until the last trace has its packet
	defer reading.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for _, r := range readersOf(c) {
		reading.Go(func() {
			for ctx.Err() == nil {
				result, err := r.run(ctx, p)
				reads.Add(1)
				switch {
				case err != nil:
				case result.Code != 0:
					none.Add(1)
				case r.none != 0:
					found.Add(1)
				}
				if err == nil {
					err = r.wrong(result, p.PinDir, mayBeNone)
				}
				if err != nil && failed.Add(1) <= 10 {
					t.Error(err)
				}
			}
		})
	}
	writes := 0
	for end := time.Now().Add(readFor); writes < leastWrites || time.Now().Before(end); writes++ {
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
