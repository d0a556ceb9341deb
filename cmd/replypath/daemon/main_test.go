// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"replypath/cmd/replypath/cli"
	"replypath/loader"
	"replypath/loader/history"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hang-up-at-end": hangUpAtEnd})
}

// fakeHost is one on which nothing can be attached, and which sends no signals. It touches nothing.
func fakeHost() Host {
	return Host{
		Start:        func(loader.Options) (Datapath, error) { return nil, errors.New("nothing can be attached") },
		TakeBack:     func(string, *slog.Logger) (bool, error) { return true, nil },
		Confirm:      func(context.Context, string) error { return nil },
		KeepHistory:  func(context.Context, *history.Keeper) {},
		Signals:      func() (reload, end <-chan os.Signal, stop func()) { return nil, nil, func() {} },
		TrialSignals: func() (<-chan os.Signal, func()) { return nil, func() {} },
		Stdin:        strings.NewReader(""),
		Notify:       func(string) error { return nil },
	}
}

// run executes a command line on a host and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, host Host) int {
	a := &cli.App{Stdout: stdout, Stderr: stderr, Version: "1.2.3"}
	root := cli.NewRoot(a)
	root.AddCommand(NewRun(a, host), NewTry(a, host))
	return a.Run(ctx, root, args)
}
