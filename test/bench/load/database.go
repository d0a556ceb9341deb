package load

import (
	"context"
	"errors"
	"fmt"
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
	walMiB           = 512 // that one run sends
)

// database is a PostgreSQL cluster that keeps its WAL since it was made.
type database struct {
	dir        string
	credential *syscall.Credential
	end        string // of the WAL that is sent (an LSN)
}

// databaseOn returns the cluster, which is made the first time.
func (s *Shared) databaseOn(ctx context.Context, host *topology.Host) (*database, error) {
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
	if d.dir, err = os.MkdirTemp(roomInMemory(), "postgresql-"); err != nil {
		return nil, err
	}
	if err := d.fill(ctx, host); err != nil {
		return nil, errors.Join(err, d.remove())
	}
	return d, nil
}

// roomInMemory returns a directory that is not on a disk, whose speed depends on its other
// users, "" where none has room for the WAL, its segments that are to come, and its copy.
func roomInMemory() string {
	const dir, room = "/dev/shm", 4 * walMiB << 20
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil || s.Type != unix.TMPFS_MAGIC || int64(s.Bavail)*s.Bsize < room {
		return ""
	}
	return dir
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

// fill makes the cluster, and writes WAL after a replication slot that is never
// moved: a copy of it begins there each time.
func (d *database) fill(ctx context.Context, host *topology.Host) (err error) {
	if err := os.Chown(d.dir, int(d.credential.Uid), int(d.credential.Gid)); err != nil {
		return err
	}
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
		"SELECT pg_create_physical_replication_slot('origin', true)",
		"SELECT pg_logical_emit_message(false, 'bench', repeat('x', 1048576)) " +
			fmt.Sprintf("FROM generate_series(1, %d)", walMiB),
		"SELECT pg_switch_wal()",
	} {
		if _, err := d.ask(ctx, host, sql); err != nil {
			return err
		}
	}
	d.end, err = d.ask(ctx, host, "SELECT pg_current_wal_flush_lsn()")
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
		"autovacuum": "off", "checkpoint_timeout": "1d", "wal_keep_size": fmt.Sprintf("%dMB", 4*walMiB),
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

// replication sends WAL to pg_receivewal.
func replication(ctx context.Context, s *contender.Site, shared *Shared) (Work, error) {
	d, err := shared.databaseOn(ctx, s.Server)
	if err != nil {
		return nil, err
	}
	server, err := d.start(ctx, s.Server)
	if err != nil {
		return nil, err
	}
	return &sender{server: server, database: d, site: s}, nil
}

// sender is PostgreSQL at work.
type sender struct {
	*server
	database *database
	site     *contender.Site
}

// Run sends a given amount of WAL, whatever d is, and returns its MiB a second.
func (s *sender) Run(ctx context.Context, _ time.Duration) (rate float64, err error) {
	d, host := s.database, s.site.Server
	if _, err := d.ask(ctx, host, "SELECT pg_copy_physical_replication_slot('origin', 'copy')"); err != nil {
		return 0, err
	}
	defer func() {
		_, dropErr := d.ask(ctx, host, "SELECT pg_drop_replication_slot('copy')")
		err = errors.Join(err, dropErr)
	}()
	received, err := os.MkdirTemp(d.dir, "received-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(received)) }()
	if err := os.Chown(received, int(d.credential.Uid), int(d.credential.Gid)); err != nil {
		return 0, err
	}
	begun := time.Now()
	_, err = outputOf(d.command(ctx, s.site.Client, "pg_receivewal", "-D", received, "-S", "copy", "--no-sync",
		"--no-loop", "-E", d.end, "-h", contender.IPv4.Self.String(), "-p", strconv.Itoa(firstPort), "-U", "postgres"))
	return walMiB / time.Since(begun).Seconds(), err
}
