// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"replypath/test/evidence/golog"
)

// results takes apart what a virtual machine says of its suites: lines between
// "@start NAME" and "@end NAME CODE SECONDS" are the log of one, "@done" is last.
type results struct {
	*outcome
	dir   string
	began time.Time
	done  bool

	log   *os.File // of the suite that runs
	suite *suiteOutcome
}

// read reads until the virtual machine is gone. The logs are complete as far as it came.
func (r *results) read(from io.Reader) error {
	for lines := bufio.NewReader(from); ; {
		line, err := lines.ReadString('\n')
		if lineErr := r.line(line); lineErr != nil {
			return lineErr
		}
		if errors.Is(err, io.EOF) {
			return r.endLog()
		}
		if err != nil {
			return err
		}
	}
}

func (r *results) line(line string) (err error) {
	fields := strings.Fields(line)
	switch {
	case line == "@done\n":
		r.done = true
	case len(fields) == 2 && fields[0] == "@start":
		r.suite = &suiteOutcome{code: notEnded, Section: golog.NewSection()}
		r.suites[fields[1]] = r.suite
		r.log, err = os.Create(filepath.Join(r.dir, fields[1]+".log"))
	case len(fields) == 4 && fields[0] == "@end":
		fmt.Printf("%6.1f s  Linux %s, %s: exit %s\n", time.Since(r.began).Seconds(), r.version, fields[1], fields[2])
		_, err = fmt.Sscan(fields[2]+" "+fields[3], &r.suite.code, &r.suite.seconds)
		err = errors.Join(err, r.endLog())
	case r.log != nil:
		r.suite.Read(line)
		r.suite.log.WriteString(line)
		_, err = r.log.WriteString(line)
	}
	return err
}

func (r *results) endLog() error {
	if r.log == nil {
		return nil
	}
	err := r.log.Close()
	r.log = nil
	return err
}
