// SPDX-License-Identifier: Apache-2.0

package contender

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/test/product"
	"replypath/test/topology"
)

const (
	// pinDirs are on the bpf file system of the sandbox, numbered.
	pinDirs     = "/sys/fs/bpf/replypath-bench-%d"
	readySocket = "@replypath-bench" // abstract names are the network namespace's own
	commandTime = time.Minute
)

// beforeVariable names an earlier build, which the contender "replypath-before" is.
const beforeVariable = "REPLYPATH_BEFORE"

// before is the enforcing contender by an earlier build: what a change gains is seen side by side only.
func before(build string) *Contender {
	return &Contender{
		Name: "replypath-before", About: "enforcing, attached by TCX, the build that " + beforeVariable + " names",
		setUp: func(ctx context.Context, s *Site, options Options) (Running, error) {
			options.Binary = build
			return StartDaemon(ctx, s.Server, options, "--mechanism", "tcx")
		},
	}
}

func replypath(name, about string, way Way, args ...string) *Contender {
	return &Contender{
		Name: name, About: about, Way: way,
		setUp: func(ctx context.Context, s *Site, options Options) (Running, error) {
			return StartDaemon(ctx, s.Server, options, args...)
		},
	}
}

// strong has the source of what the server opens decide by which interface that leaves.
func strong() *Contender {
	return &Contender{
		Name: Strong, About: "enforcing, with host_model: strong", origin: true,
		setUp: func(ctx context.Context, s *Site, options Options) (Running, error) {
			options.Configuration = fmt.Sprintf("host_model: strong\ninterfaces: [{name: eth0}, {name: eth1, gateways: [%q]}]\n", s.gateway)
			d, err := StartDaemon(ctx, s.Server, options, "--mechanism", "tcx")
			if err != nil {
				return nil, err
			}
			if err := d.endGrace(); err != nil {
				return nil, errors.Join(err, d.Stop())
			}
			return d, nil
		},
	}
}

// daemons is how many have been started.
var daemons atomic.Uint32

// Daemon is `replypath run` on a host.
type Daemon struct {
	// ReadyAfter is the time from its start to READY=1.
	ReadyAfter time.Duration

	binary  string
	host    *topology.Host
	dir     string // of the configuration
	pinDir  string
	command *topology.Cmd
	log     bytes.Buffer // to be read when ended is closed
	ended   chan struct{}
}

// StartDaemon starts the daemon and waits until it is ready. It belongs to the
// network of the host; Stop also takes away what it has pinned.
func StartDaemon(ctx context.Context, host *topology.Host, options Options, args ...string) (*Daemon, error) {
	dir, err := os.MkdirTemp("", "daemon-")
	if err != nil {
		return nil, err
	}
	d := &Daemon{binary: cmp.Or(options.Binary, product.Binary()), host: host, dir: dir, pinDir: fmt.Sprintf(pinDirs, daemons.Add(1)), ended: make(chan struct{})}
	file := filepath.Join(dir, "replypath.yaml")
	if err := os.WriteFile(file, []byte(configuration(options)), 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	args = append([]string{d.binary, "--pin-dir", d.pinDir, "run", "--config", file}, args...)
	if options.CPUs != "" {
		args = append([]string{"taskset", "-c", options.CPUs}, args...)
	}
	d.command = host.Command(context.Background(), args[0], args[1:]...) // until Stop
	if err := d.start(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return d, nil
}

// configuration makes room for flows where the defaults have none. The table of
// datagrams is half as large as that of connections.
func configuration(options Options) string {
	entries := 2 * options.Flows
	if entries <= int(config.Default().MaxEntries) {
		return options.Configuration
	}
	return options.Configuration + fmt.Sprintf("flow_table: {max_entries: %d}\n", entries)
}

func (d *Daemon) start(ctx context.Context) error {
	socket, err := d.host.ListenPacket(ctx, "unixgram", readySocket)
	if err != nil {
		return err
	}
	defer socket.Close()
	d.command.Env = append(os.Environ(), "NOTIFY_SOCKET="+readySocket)
	d.command.Stdout, d.command.Stderr = &d.log, &d.log
	begun := time.Now()
	if err := d.command.Start(); err != nil {
		return err
	}
	go func() {
		defer close(d.ended)
		_ = d.command.Wait() // it is told to end, or its log says why it did
		_ = socket.Close()   // nobody is going to write to it
	}()
	if err := awaitReady(ctx, socket); err != nil {
		return errors.Join(err, d.Stop(), fmt.Errorf("replypath run logged %q", d.tail()))
	}
	d.ReadyAfter = time.Since(begun)
	return nil
}

// awaitReady reads what the daemon tells its manager until it is ready.
func awaitReady(ctx context.Context, socket net.PacketConn) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	message := make([]byte, 4096)
	for {
		n, _, err := socket.ReadFrom(message)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("wait for replypath run: %w", context.Cause(ctx))
		case err != nil:
			return errors.New("replypath run ended before it was ready")
		case strings.Contains("\n"+string(message[:n])+"\n", "\nREADY=1\n"):
			return nil
		}
	}
}

// tail returns the end of the log of a daemon that has ended.
func (d *Daemon) tail() string {
	const most = 2000
	text := d.log.String()
	return text[max(0, len(text)-most):]
}

// PID returns the process's number.
func (d *Daemon) PID() int { return d.command.Process.Pid }

// Command returns another command of replypath, for the same pins.
func (d *Daemon) Command(ctx context.Context, args ...string) *topology.Cmd {
	return d.host.Command(ctx, d.binary, append([]string{"--pin-dir", d.pinDir}, args...)...)
}

// Stop ends the daemon and detaches.
func (d *Daemon) Stop() error {
	err := d.command.Process.Signal(unix.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	select {
	case <-d.ended:
	case <-time.After(commandTime):
		err = errors.Join(err, errors.New("replypath run does not end by SIGTERM"), d.command.Process.Kill())
		<-d.ended
	}
	return errors.Join(err, d.detach(), os.RemoveAll(d.dir))
}

func (d *Daemon) detach() error {
	if _, err := os.Stat(d.pinDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	if output, err := d.Command(ctx, "detach").CombinedOutput(); err != nil {
		return fmt.Errorf("replypath detach: %w: %s", err, output)
	}
	return nil
}

// endGrace ends the first seconds, in which what the host asks is no beginning: the answer makes it a reply.
func (d *Daemon) endGrace() error {
	maps, err := datapath.OpenMaps(d.pinDir)
	if err != nil {
		return err
	}
	return errors.Join(maps.Grace.Set(uint32(0)), maps.Close())
}

// BytesPerFlow returns the kernel's memory of the maps that grow with the flow tables,
// divided by the flows that these are meant for.
func (d *Daemon) BytesPerFlow() (float64, error) {
	maps, err := datapath.OpenMaps(d.pinDir)
	if err != nil {
		return 0, err
	}
	defer maps.Close()
	var memory, flows uint64
	for _, m := range []*ebpf.Map{maps.Buckets, maps.Cells} {
		info, err := m.Info()
		if err != nil {
			return 0, fmt.Errorf("look up %s: %w", m, err)
		}
		bytes, known := info.Memlock()
		if !known {
			return 0, fmt.Errorf("the kernel does not tell the memory of %s", m)
		}
		memory += bytes
	}
	for _, table := range bpf.FlowTables(&maps.DatapathMaps) {
		flows += table.Capacity()
	}
	return float64(memory) / float64(flows), nil
}
