package kinds

import (
	"context"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// qdisc puts a queueing discipline on the server's interfaces.
func qdisc(t *testing.T, host *topology.Host, device string, what ...string) {
	t.Helper()
	args := append([]string{"qdisc", "replace", "dev", device, "root"}, what...)
	output, err := host.Command(harness.Within(t, harness.AnswerTime), "tc", args...).CombinedOutput()
	if err != nil && strings.Contains(string(output), "qdisc kind is unknown") {
		lacks(t, "queueing discipline "+what[0])
	}
	if err != nil {
		t.Fatalf("tc %v: %v\n%s", args, err, output)
	}
}

// TestNetem delays what leaves by either interface. A moved answer is delayed by
// the interface that it leaves by, once, and not by the one that the kernel chose.
func TestNetem(t *testing.T) {
	const production, replication = 8 * time.Second, 500 * time.Millisecond
	s := newSite(t, ethernet, ethernet)
	qdisc(t, s.Server, "eth0", "netem", "delay", "8s")
	qdisc(t, s.Server, "eth1", "netem", "delay", "500ms")
	// What resolves the gateway's MAC is delayed as well.
	for _, f := range families {
		harness.Must(t, s.Replication.Resolve(harness.Within(t, harness.AnswerTime), s.Replication.Gateway(f)))
		harness.Must(t, s.Replication.Peer().Resolve(harness.Within(t, harness.AnswerTime), s.Replication.Address(f)))
	}
	harness.On(t, s.Server).Start()
	eachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c := s.ask(t, kind, s.Replication.Address(f))
		ctx := harness.Within(t, harness.AnswerTime)
		harness.Must(t, c.Connect(ctx))
		exits := harness.TapAll(t, s.nics()...)
		began := time.Now()
		harness.Must(t, c.Ask(ctx))
		if took := time.Since(began); took < replication || took > 2*replication {
			t.Errorf("%s: answered after %s, not after once %s", c, took, replication)
		}
		exits.Want(c.String(), c.Answers(), s.Replication, s.Replication.Peer().MAC)
	})
}

// paced is how many bytes a second a server sends where it has set a limit.
const paced = 1_000_000

// TestPacing has a server limit the rate of its connection (SO_MAX_PACING_RATE),
// which fq at the interfaces carries out: what is moved keeps its pace.
func TestPacing(t *testing.T) {
	for name, devices := range map[string][]string{
		"fq at both": {"eth0", "eth1"}, "fq at replication": {"eth1"}, "fq at production": {"eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, ethernet, ethernet)
			for _, device := range devices {
				qdisc(t, s.Server, device, "fq")
			}
			harness.On(t, s.Server).Start()
			for _, f := range families {
				t.Run(f.String(), func(t *testing.T) { s.wantPaced(t, f, devices[len(devices)-1] == "eth1") })
			}
		})
	}
}

// wantPaced has the server send three seconds' worth.
func (s *site) wantPaced(t *testing.T, f topology.Family, byFQ bool) {
	const size = 3 * paced
	ctx := harness.Within(t, 3*harness.AnswerTime)
	l := harness.Must1[net.Listener](t)(s.listenPaced(ctx, s.Replication.Address(f)))
	defer l.Close()
	sent := make(chan error, 1)
	go func() { sent <- sendAll(l, size) }()
	port := netip.MustParseAddrPort(l.Addr().String())
	exits := harness.TapAll(t, s.nics()...)
	before := s.throttled(t)
	conn := harness.Must1[net.Conn](t)(s.Client.Dial(ctx, "tcp", port.String()))
	defer conn.Close()
	began := time.Now()
	got, err := io.Copy(io.Discard, conn)
	took := time.Since(began)
	harness.Must(t, err)
	harness.Must(t, <-sent)
	if got != size {
		t.Errorf("%d bytes arrived of %d", got, size)
	}
	if rate := float64(size) / took.Seconds(); rate > 1.2*paced {
		t.Errorf("%.0f bytes a second, not %d", rate, paced)
	}
	if byFQ && s.throttled(t) == before {
		t.Error("fq at replication has held nothing back")
	}
	exits.Want("what is paced", topology.All(topology.TCP, topology.FromPort(port.Port())), s.Replication, s.Replication.Peer().MAC)
}

// listenPaced listens with a limit that the accepted connections inherit.
func (s *site) listenPaced(ctx context.Context, at netip.Addr) (net.Listener, error) {
	l, err := s.Server.Listen(ctx, "tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		return nil, err
	}
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return nil, err
	}
	return l, control(raw, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, paced)
	})
}

func control(raw syscall.RawConn, set func(fd int) error) error {
	var err error
	if controlErr := raw.Control(func(fd uintptr) { err = set(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}

// sendAll accepts one connection, sends so many bytes and closes it.
func sendAll(l net.Listener, size int) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	_, err = conn.Write(make([]byte, size))
	conn.Close()
	return err
}

var throttledFlows = regexp.MustCompile(`gc \d+.* throttled (\d+)`)

// throttled is how many packets fq at replication has held back.
func (s *site) throttled(t *testing.T) int {
	t.Helper()
	match := throttledFlows.FindStringSubmatch(harness.Shell(t, s.Server, "tc -s qdisc show dev eth1"))
	if match == nil {
		return 0
	}
	return harness.Must1[int](t)(strconv.Atoi(match[1]))
}
