// SPDX-License-Identifier: Apache-2.0

package software

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

const (
	postgresPrograms = "/usr/lib/postgresql/15/bin"
	postgresPort     = 5432
	postgresTime     = 60 * time.Second
)

// cluster is a PostgreSQL server's data, with a directory for its socket.
type cluster struct {
	t          *testing.T
	host       *topology.Host
	dir        string
	credential *syscall.Credential
	server     *product.Program
}

// newCluster makes the directories of a cluster, which is empty.
func newCluster(t *testing.T, host *topology.Host) *cluster {
	t.Helper()
	account, err := user.Lookup("postgres")
	if err != nil {
		t.Fatalf("%v: run test/install-packages.sh", err)
	}
	uid := await.Must1[int](t)(strconv.Atoi(account.Uid))
	gid := await.Must1[int](t)(strconv.Atoi(account.Gid))
	c := &cluster{
		t: t, host: host, dir: publicDir(t),
		credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
	}
	await.Must(t, os.Chown(c.dir, uid, gid))
	return c
}

func (c *cluster) data() string { return filepath.Join(c.dir, "data") }

// command returns one of PostgreSQL's programs, to be run as its user: most refuse to be run by root.
func (c *cluster) command(ctx context.Context, program string, args ...string) *topology.Cmd {
	cmd := c.host.Command(ctx, need(c.t, filepath.Join(postgresPrograms, program)), args...)
	cmd.SysProcAttr.Credential = c.credential
	cmd.Dir = c.dir
	// Nothing of the host's settings; the shortest time that libpq knows.
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "PGCONNECT_TIMEOUT=2"}
	return cmd
}

// run runs one of PostgreSQL's programs to its end.
func (c *cluster) run(program string, args ...string) (output string, err error) {
	c.t.Helper()
	text, err := c.command(await.Within(c.t, postgresTime), program, args...).CombinedOutput()
	return string(text), err
}

func (c *cluster) mustRun(program string, args ...string) string {
	c.t.Helper()
	output, err := c.run(program, args...)
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", program, err, output)
	}
	return strings.TrimSpace(output)
}

// initialize makes a cluster that takes replication from a network.
func (c *cluster) initialize(standbys netip.Prefix) {
	c.t.Helper()
	c.mustRun("initdb", "-D", c.data(), "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions")
	access := await.Must1[*os.File](c.t)(os.OpenFile(filepath.Join(c.data(), "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0))
	_, err := fmt.Fprintf(access, "host replication all %s trust\n", standbys)
	await.Must(c.t, err)
	await.Must(c.t, access.Close())
}

// start runs the server, listening at an address, and waits until it answers.
func (c *cluster) start(listen string) {
	c.t.Helper()
	settings := map[string]string{
		"listen_addresses": listen, "port": fmt.Sprint(postgresPort), "unix_socket_directories": c.dir,
		// Data that does not outlive the test needs no disk.
		"fsync": "off", "full_page_writes": "off",
		// Shared memory that ends with the processes.
		"dynamic_shared_memory_type": "mmap",
		"shared_buffers":             "16MB", "max_wal_size": "512MB", "wal_level": "replica", "hot_standby": "on",
		// A standby that is cut off finds out, and comes back, soon.
		"wal_receiver_timeout": "5s", "wal_sender_timeout": "5s", "wal_retrieve_retry_interval": "100ms",
	}
	args := []string{"-D", c.data()}
	for key, value := range settings {
		args = append(args, "-c", key+"="+value)
	}
	// SIGQUIT is an immediate shutdown.
	c.server = product.StartProgram(c.t, c.command(context.Background(), "postgres", args...), unix.SIGQUIT)
	c.server.WaitLog(1, "database system is ready to accept")
}

// ask runs SQL by the server's own socket and returns what it printed.
func (c *cluster) ask(sql string) string {
	c.t.Helper()
	return c.mustRun("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", c.dir, "-d", "postgres", "-c", sql)
}

// TestPostgreSQL replicates between the eth1 addresses of S1: a primary on B, a standby on A, which opens the
// connections. The primary's answers go by eth0 without replypath, and the base backup cannot even connect.
func TestPostgreSQL(t *testing.T) {
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		t.Run(f.String(), func(t *testing.T) { testPostgreSQL(t, f) })
	}
}

func testPostgreSQL(t *testing.T, f topology.Family) {
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.StrictSource})
	address, standbyAddress := s.B.Eth1.Address(f), s.A.Eth1.Address(f)
	primary, standby := newCluster(t, s.B.Host), newCluster(t, s.A.Host)
	primary.initialize(netip.PrefixFrom(standbyAddress, standbyAddress.BitLen()))
	primary.start(address.String())
	primary.ask("CREATE TABLE entry (number bigint PRIMARY KEY, text text)")

	earlier := wantNoBackup(t, s, standby, address)
	p, d := product.StartOn(t, s.B.Host)
	wires := watchBoth(t, s)
	standby.mustRun("pg_basebackup", backupArguments(standby, address)...)
	standby.start("")
	// From here on a commit returns when the standby shows it.
	primary.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
	primary.ask("SELECT pg_reload_conf()")

	replicate(t, primary, standby, 20_000)
	d.Kill()
	replicate(t, primary, standby, 1000)
	p.Start()
	replicate(t, primary, standby, 1000)

	// The kernel still repeats its answer to who could not connect.
	wires.wantEth1("replication", topology.All(replication(s, f), topology.Not(earlier)))
	if m := p.Metrics(); m.Sum("replypath_corrected_packets_total", "protocol=tcp", "family="+f.String()) == 0 {
		t.Error("no packet was counted as corrected")
	}
}

func backupArguments(standby *cluster, primary netip.Addr) []string {
	return []string{
		"-h", primary.String(), "-p", fmt.Sprint(postgresPort), "-D", standby.data(),
		"-R", "-X", "stream", "-c", "fast", "--no-sync",
	}
}

// replication matches the segments between both servers' eth1 addresses and the primary's port, in either direction.
func replication(s *topology.S1, f topology.Family) topology.Filter {
	port := topology.OneOf(topology.FromPort(postgresPort), topology.ToPort(postgresPort))
	return topology.All(topology.TCP, port, topology.Between(s.A.Eth1.Address(f), s.B.Eth1.Address(f)))
}

// wantNoBackup shows that the primary is asked, answers by eth0 and is not heard. It returns what matches this attempt
// to connect.
func wantNoBackup(t *testing.T, s *topology.S1, standby *cluster, address netip.Addr) topology.Filter {
	t.Helper()
	wires := wire.Tap(t, s.B)
	output, err := standby.run("pg_basebackup", backupArguments(standby, address)...)
	if err == nil || !strings.Contains(output, "timeout expired") {
		t.Errorf("pg_basebackup without replypath: %v\n%s", err, output)
	}
	attempt := make(map[uint16]bool)
	for _, frame := range wires.WantEth0("the primary without replypath", topology.All(
		replication(s, topology.FamilyOf(address)), topology.From(address))) {
		attempt[frame.DestinationPort] = true
	}
	return func(f *topology.Frame) bool { return attempt[f.SourcePort] || attempt[f.DestinationPort] }
}

// replicate writes rows on the primary and reads them on the standby.
func replicate(t *testing.T, primary, standby *cluster, rows int) {
	t.Helper()
	primary.ask(fmt.Sprintf(`SET synchronous_commit = remote_apply;
		INSERT INTO entry SELECT n, md5(n::text) || repeat('x', 400)
		FROM generate_series((SELECT count(*) FROM entry) + 1, (SELECT count(*) FROM entry) + %d) AS n`, rows))
	const all = "SELECT count(*), md5(string_agg(text, ',' ORDER BY number)) FROM entry"
	await.Same(t, "what the standby has", primary.ask(all), standby.ask(all))
	await.Same(t, "it is a standby", "t", standby.ask("SELECT pg_is_in_recovery()"))
}
