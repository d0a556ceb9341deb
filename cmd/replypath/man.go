package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"replypath/loader/config"
)

// manualDate is shown at the foot of the manual pages. It changes by hand, with
// their text, so that generating them twice gives the same.
var manualDate = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// newMan makes the manual pages, for whoever packages replypath.
func newMan(*app) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:    "man",
		Short:  "Write the manual pages",
		Hidden: true,
		Args:   noArguments,
		RunE:   func(c *cobra.Command, _ []string) error { return writeManual(c.Root(), dir) },
	}
	c.Flags().StringVar(&dir, "dir", ".", "write them into this `directory`")
	if err := c.MarkFlagDirname("dir"); err != nil {
		panic(err) // there is no such flag
	}
	return c
}

func writeManual(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write manual pages: %w", err)
	}
	err := doc.GenManTreeFromOpts(root, doc.GenManTreeOptions{
		Path:             dir,
		CommandSeparator: "-",
		Header: &doc.GenManHeader{
			Section: "8", Date: &manualDate, Source: "replypath", Manual: "System Administration",
		},
	})
	if err != nil {
		return fmt.Errorf("write manual pages: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "replypath.yaml.5"), configManual(), 0o644)
}

// configManual is the manual page of the configuration file.
func configManual() []byte {
	title := fmt.Sprintf("%% \"REPLYPATH.YAML\" \"5\" \"%s\" \"replypath\" \"File Formats\"\n", manualDate.Format("Jan 2006"))
	return md2man.Render([]byte(title + config.Manual()))
}
