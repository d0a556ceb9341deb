// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/topology"
)

// ErrIdle says that nothing was done.
var ErrIdle = errors.New("nothing was done")

// The first thread is left to the main function: /proc/self/fd shows its table of open files, and no loop may take that
// away.
func init() { runtime.LockOSThread() }

// socketPatience is how long a system call on a socket may block, so that a loop
// finds out that it is to end, or a client that a datagram is lost.
const socketPatience = 100 * time.Millisecond

// crew is loops on threads of their own, in the namespaces of hosts, pinned to CPUs. They rest
// while Run does not let them work.
type crew struct {
	done             atomic.Uint64 // what the clients have done
	clients, servers *gate
	stopped          atomic.Bool
	loops            sync.WaitGroup
	failure          chan error // the first one
	sockets          []int
	// beside is what a client reads between two turns, nil where it does nothing else; asking is the time of the
	// turns, in nanoseconds, where it does.
	beside []uint64
	asking atomic.Int64
}

func newCrew() *crew {
	return &crew{clients: newGate(), servers: newGate(), failure: make(chan error, 1)}
}

// keep has a socket closed with the crew.
func (c *crew) keep(fd int) int {
	c.sockets = append(c.sockets, fd)
	return fd
}

// ask has a client call turn again and again on a CPU until the crew is closed or turn fails.
// turn blocks no longer than socketPatience.
func (c *crew) ask(host *topology.Host, cpu int, turn func() error) {
	c.loop(c.clients, host, cpu, c.timed(turn))
}

// serve is the same for a server.
func (c *crew) serve(host *topology.Host, cpu int, turn func() error) {
	c.loop(c.servers, host, cpu, turn)
}

func (c *crew) loop(g *gate, host *topology.Host, cpu int, turn func() error) {
	c.begin(g, host, cpu, func() (func() error, error) { return turn, nil })
}

// begin starts a loop, whose turn start returns: it opens what the loop needs, on its thread. The channel says when it has
// returned, and its error.
func (c *crew) begin(g *gate, host *topology.Host, cpu int, start func() (turn func() error, err error)) <-chan error {
	begun := make(chan error, 1)
	g.enter()
	c.loops.Go(func() {
		defer g.leave()
		// Never unlocked: the thread is of no use to anybody else any more.
		runtime.LockOSThread()
		err := pin(cpu)
		if err == nil {
			err = host.Do(func() error {
				turn, err := start()
				begun <- err
				if err != nil {
					return nil // told
				}
				return c.repeat(g, turn)
			})
		}
		if err != nil {
			for _, to := range []chan error{begun, c.failure} { // start may have told, another loop have failed
				select {
				case to <- err:
				default:
				}
			}
		}
		close(begun)
	})
	return begun
}

func (c *crew) repeat(g *gate, turn func() error) error {
	for {
		g.pass()
		if c.stopped.Load() {
			return nil
		}
		if err := turn(); err != nil && !again(err) && !c.stopped.Load() { // else the other side may have ended
			return err
		}
	}
}

// again tells errors of a system call that has only taken long, or was interrupted.
func again(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.EINPROGRESS)
}

// pin binds the calling thread to a CPU.
func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	return nil
}

// Run lets the clients work and returns how much a second they have done: of the time of their turns, where
// they do other work between these.
func (c *crew) Run(ctx context.Context, d time.Duration) (float64, error) {
	done, asking := c.done.Load(), c.asking.Load()
	rate, err := c.rate(ctx, d, func() (uint64, error) { return c.done.Load(), nil })
	if err != nil || c.beside == nil {
		return rate, err
	}
	return float64(c.done.Load()-done) / time.Duration(c.asking.Load()-asking).Seconds(), nil
}

// rate lets the crew work and returns how fast a count rises meanwhile.
func (c *crew) rate(ctx context.Context, d time.Duration, count func() (uint64, error)) (float64, error) {
	c.servers.open()
	c.clients.open()
	defer c.rest()
	return rateOf(ctx, d, c.failure, count)
}

// rest returns when nothing works any more: the clients have their last answers by then.
func (c *crew) rest() {
	c.clients.close()
	c.clients.awaitRest()
	c.servers.close()
}

// rateOf returns how much a count rises in a second, unless something fails meanwhile.
func rateOf(ctx context.Context, d time.Duration, failure <-chan error, count func() (uint64, error)) (float64, error) {
	before, err := count()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	select {
	case <-time.After(d):
	case err := <-failure:
		return 0, err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	after, err := count()
	if err != nil {
		return 0, err
	}
	if after == before {
		return 0, fmt.Errorf("%w in %s", ErrIdle, d)
	}
	return float64(after-before) / time.Since(begun).Seconds(), nil
}

// Close ends the loops and closes the sockets.
func (c *crew) Close() error {
	c.stopped.Store(true)
	c.clients.open()
	c.servers.open()
	c.loops.Wait()
	var errs []error
	for _, fd := range c.sockets {
		errs = append(errs, unix.Close(fd))
	}
	select {
	case err := <-c.failure:
		errs = append(errs, err)
	default:
	}
	return errors.Join(errs...)
}

// closeAfter adds the error of closing to the one that the start failed with.
func (c *crew) closeAfter(err error) error { return errors.Join(err, c.Close()) }
