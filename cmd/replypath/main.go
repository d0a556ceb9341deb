// Command replypath makes a host with several interfaces answer by the one
// that the question came in on.
package main

import (
	"context"
	"os"
)

//go:generate go run . man --dir ../../packaging/man

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr, host()))
}
