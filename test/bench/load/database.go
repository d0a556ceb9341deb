// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/bench/contender"
	"replypath/test/topology"
)

const (
	postgresPrograms = "/usr/lib/postgresql/15/bin"
	replicationSlot  = "bench"
	walMiB           = 1024 // that one server can send
)

// database is a PostgreSQL cluster that keeps its WAL since it was made.
type database struct {
	dir        string
	credential *syscall.Credential
	last       string // segment of the WAL, which servers write to
}

// template returns the cluster that others are copies of, which is made the first time.
func (s *Shared) template(ctx context.Context, host *topology.Host) (*database, error) {
	if s.database != nil {
		return s.database, nil
	}
	d, err := newDatabase(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("make a PostgreSQL cluster: %w", err)
	}
	s.database = d
	return d, nil
}

func newDatabase(ctx context.Context, host *topology.Host) (d *database, err error) {
	d = new(database)
	if d.credential, err = postgresUser(); err != nil {
		return nil, err
	}
	parent, err := memory()
	if err != nil {
		return nil, err
	}
	if err := d.makeDirectory(parent); err != nil {
		return nil, err
	}
	if err := d.fill(ctx, host); err != nil {
		return nil, errors.Join(err, d.remove())
	}
	return d, nil
}

func (d *database) makeDirectory(parent string) (err error) {
	if d.dir, err = os.MkdirTemp(parent, "postgresql-"); err != nil {
		return err
	}
	if err := d.own(d.dir); err != nil {
		return errors.Join(err, d.remove())
	}
	return nil
}

// own gives a file to PostgreSQL.
func (d *database) own(path string) error {
	return os.Chown(path, int(d.credential.Uid), int(d.credential.Gid))
}

// memory returns a directory that is not on a disk, whose speed depends on its other users, "" where none has
// room for the WAL, what copies write, and what receivers have not lost yet. It is a file system of this
// sandbox, and goes with it however the benchmark ends.
func memory() (string, error) {
	const dir, room = "/dev/shm", 4 * walMiB << 20
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil || s.Type != unix.TMPFS_MAGIC || int64(s.Bavail)*s.Bsize < room {
		return "", nil
	}
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=1777,size=%d", room)); err != nil {
		return "", fmt.Errorf("mount a file system in memory: %w", err)
	}
	return dir, nil
}

// postgresUser is who PostgreSQL's programs run as: they refuse to be run by root.
func postgresUser() (*syscall.Credential, error) {
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (d *database) remove() error { return os.RemoveAll(d.dir) }

func (d *database) data() string { return filepath.Join(d.dir, "data") }

// fill makes the cluster, and writes WAL after a replication slot.
func (d *database) fill(ctx context.Context, host *topology.Host) (err error) {
	_, err = outputOf(d.command(ctx, host, "initdb", "-D", d.data(), "-A", "trust", "-E", "UTF8",
		"--no-sync", "--no-instructions"))
	if err != nil {
		return err
	}
	access := fmt.Sprintf("local all all trust\nhost replication all %s trust\n", netip.PrefixFrom(contender.IPv4.Peer, 32))
	if err := os.WriteFile(filepath.Join(d.data(), "pg_hba.conf"), []byte(access), 0o644); err != nil {
		return err
	}
	server, err := d.start(ctx, host)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	for _, sql := range []string{
		"SELECT pg_create_physical_replication_slot('" + replicationSlot + "', true)",
		"SELECT pg_logical_emit_message(false, 'bench', repeat('x', 1048576)) " +
			fmt.Sprintf("FROM generate_series(1, %d)", walMiB),
		"SELECT pg_switch_wal()",
	} {
		if _, err := d.ask(ctx, host, sql); err != nil {
			return err
		}
	}
	d.last, err = d.ask(ctx, host, "SELECT pg_walfile_name(pg_current_wal_flush_lsn())")
	return err
}

// command returns one of PostgreSQL's programs.
func (d *database) command(ctx context.Context, host *topology.Host, program string, args ...string) *topology.Cmd {
	c := onCPU(ctx, host, CPU(), filepath.Join(postgresPrograms, program), args...)
	c.SysProcAttr.Credential = d.credential
	c.Dir = d.dir
	c.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "PGCONNECT_TIMEOUT=5"}
	return c
}

// start runs the server.
func (d *database) start(ctx context.Context, host *topology.Host) (*server, error) {
	settings := map[string]string{
		"listen_addresses": contender.IPv4.Self.String(), "port": strconv.Itoa(firstPort), "unix_socket_directories": d.dir,
		// Data that does not outlive the benchmark needs no disk.
		"fsync": "off", "full_page_writes": "off", "dynamic_shared_memory_type": "mmap",
		"shared_buffers": "16MB", "max_wal_size": "4GB", "wal_level": "replica", "max_wal_senders": "4",
		"wal_sender_timeout": "0", // receivers halt while others have their turns
		"autovacuum":         "off", "checkpoint_timeout": "1d", "wal_keep_size": fmt.Sprintf("%dMB", 4*walMiB),
	}
	args := []string{"-D", d.data()}
	for key, value := range settings {
		args = append(args, "-c", key+"="+value)
	}
	return startServer(ctx, d.command(context.Background(), host, "postgres", args...),
		"database system is ready to accept")
}

// ask runs SQL by the server's own socket and returns what it printed.
func (d *database) ask(ctx context.Context, host *topology.Host, sql string) (string, error) {
	text, err := outputOf(d.command(ctx, host, "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
		"-h", d.dir, "-p", strconv.Itoa(firstPort), "-d", "postgres", "-c", sql))
	return strings.TrimSpace(text), err
}

// copy returns another cluster with the same WAL. Of that they share the files that nobody writes to any more.
func (d *database) copy() (*database, error) {
	c := &database{credential: d.credential, last: d.last}
	if err := c.makeDirectory(filepath.Dir(d.dir)); err != nil { // files are linked on one file system only
		return nil, err
	}
	err := filepath.WalkDir(d.data(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(c.data(), strings.TrimPrefix(path, d.data()))
		switch {
		case entry.IsDir():
			err = os.Mkdir(to, 0o700)
		case filepath.Base(filepath.Dir(path)) == "pg_wal" && entry.Name() < d.last:
			return os.Link(path, to)
		default:
			err = copyFile(path, to)
		}
		if err != nil {
			return err
		}
		return c.own(to)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("copy a PostgreSQL cluster: %w", err), c.remove())
	}
	return c, nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

// replication sends WAL to pg_receivewal.
func replication(ctx context.Context, s *contender.Site, shared *Shared) (Work, error) {
	template, err := shared.template(ctx, s.Server)
	if err != nil {
		return nil, err
	}
	d, err := template.copy()
	if err != nil {
		return nil, err
	}
	server, err := d.start(ctx, s.Server)
	if err != nil {
		return nil, errors.Join(err, d.remove())
	}
	w := &sender{server: server, database: d, site: s, received: filepath.Join(d.dir, "received")}
	if err := w.receive(ctx); err != nil {
		return nil, errors.Join(err, w.closeServer())
	}
	return w, nil
}

// sender is PostgreSQL at work.
type sender struct {
	server, receiver *server
	database         *database
	site             *contender.Site
	received         string // directory
}

// receive starts pg_receivewal and has it halt.
func (s *sender) receive(ctx context.Context) (err error) {
	d := s.database
	if err := os.Mkdir(s.received, 0o700); err != nil {
		return err
	}
	if err := d.own(s.received); err != nil {
		return err
	}
	program := d.command(context.Background(), s.site.Client, "pg_receivewal", "--verbose", "-D", s.received, "-S", replicationSlot, "--no-sync",
		"--no-loop", "-h", contender.IPv4.Self.String(), "-p", strconv.Itoa(firstPort), "-U", "postgres")
	if s.receiver, err = startServer(ctx, program, "starting log streaming"); err != nil {
		return err
	}
	if err := s.receiver.halt(); err != nil {
		return errors.Join(err, s.receiver.Close())
	}
	return nil
}

// Run lets pg_receivewal go on, and returns the MiB that the server sends in a second.
func (s *sender) Run(ctx context.Context, d time.Duration) (rate float64, err error) {
	if err := s.receiver.resume(); err != nil {
		return 0, err
	}
	defer func() { err = firstOf(errors.Join(s.receiver.rest(ctx, s.site), s.forget()), err) }()
	bytes, err := rateOf(ctx, d, nil, func() (uint64, error) {
		sent, _, err := s.site.Bytes()
		return sent, err
	})
	return bytes / (1 << 20), err
}

// forget removes what has been received, but for the segment that is about to be.
func (s *sender) forget() error {
	segments, err := filepath.Glob(filepath.Join(s.received, "*[0-9A-F]"))
	if err != nil {
		return err
	}
	var errs []error
	for _, segment := range segments {
		errs = append(errs, os.Remove(segment))
	}
	return errors.Join(errs...)
}

// Close ends receiver and server.
func (s *sender) Close() error { return errors.Join(s.receiver.Close(), s.closeServer()) }

func (s *sender) closeServer() error { return errors.Join(s.server.Close(), s.database.remove()) }
