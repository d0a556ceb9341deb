// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"replypath/cmd/replypath/cli"
	"replypath/loader/flows"
	"replypath/test/fakehost"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"replypath": runOnFakeHost})
}

// runOnFakeHost is a program that has this command only.
func runOnFakeHost() {
	a := &cli.App{Stdout: os.Stdout, Stderr: os.Stderr}
	root := cli.NewRoot(a)
	root.AddCommand(New(a, func(dir string, o flows.Order, limit int) Look { return fakehost.Top(dir, o, limit) }))
	os.Exit(a.Run(context.Background(), root, os.Args[1:]))
}
