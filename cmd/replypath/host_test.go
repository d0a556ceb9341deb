package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
)

// What is not there is warned of, without any rights and without a change.
func TestHostWarnings(t *testing.T) {
	cfg := config.Default()
	cfg.Interfaces = []config.Interface{{Name: "nosuchdevice0", NextHop: config.NextHopAuto}}
	warnings, err := hostWarnings(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(warnings, "\n"), "nosuchdevice0") {
		t.Errorf("no warning of an interface that is not there: %q", warnings)
	}
}

func TestDaemonSignals(t *testing.T) {
	signals, stop := daemonSignals()
	defer stop()
	for _, want := range []unix.Signal{unix.SIGHUP, unix.SIGTERM, unix.SIGINT} {
		if err := unix.Kill(unix.Getpid(), want); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, signals); got != want {
			t.Errorf("got %v, not %v", got, want)
		}
	}
}

func TestNotifySystemd(t *testing.T) {
	address := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	manager, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", address.Name)
	if err := notifySystemd(reloadingState()); err != nil {
		t.Fatal(err)
	}
	if err := manager.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 100)
	n, err := manager.Read(message)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(message[:n]); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("the service manager is told %q", got)
	}
}

func TestNoServiceManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := notifySystemd("READY=1"); err != nil {
		t.Error(err)
	}
}
