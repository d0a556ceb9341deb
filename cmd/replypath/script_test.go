// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"replypath": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr, fakeHost())) },
	})
}

// The transcripts in testdata are what a user sees on the fake host. After a change that is meant: UPDATE_SCRIPTS=1 go
// test -run Script.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			env.Setenv("COLUMNS", "80")
			return nil
		},
	})
}

// exits runs replypath and wants an exit code: "exits 2 run --frobnicate". What it wrote is there for stdout, stderr
// and cmp.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: exits code [argument...]")
	}
	err := ts.Exec("replypath", args[1:]...)
	code := 0
	if failed := new(exec.ExitError); errors.As(err, &failed) {
		code = failed.ExitCode()
	} else if err != nil {
		ts.Check(err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("replypath exits with %d, not %s", code, args[0])
	}
}
