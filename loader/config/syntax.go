// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// syntaxError turns an error of the YAML library into one of ours.
func syntaxError(file string, data []byte, err error) error {
	message, line := splitSyntaxError(err)
	if found := syntaxErrorLine(data, message); found > 0 {
		line = found
	}
	return &Error{File: file, Line: line, Message: "not yaml: " + message, Err: err}
}

// yamlLine is where the YAML library puts the line into its messages.
var yamlLine = regexp.MustCompile(`^line (\d+): `)

// splitSyntaxError returns the library's message on one line, and the line of
// the file that it blames, 0 for none.
func splitSyntaxError(err error) (message string, line int) {
	message = strings.TrimPrefix(err.Error(), "yaml: ")
	if match := yamlLine.FindStringSubmatch(message); match != nil {
		message = message[len(match[0]):]
		line, _ = strconv.Atoi(match[1]) // digits only; an overflow reads as none
	}
	return strings.Join(strings.Fields(message), " "), line
}

// syntaxErrorLine finds the line that brings an error about: the file is cut
// line by line from its end until the error goes away. The library itself names
// the line before the one where the surrounding map or list begins, or none. 0
// says that the file is too long for that, as all of it is read again for each line.
func syntaxErrorLine(data []byte, message string) int {
	const mostLines, mostBytes = 1000, 64 << 10
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(lines) > mostLines || len(data) > mostBytes {
		return 0
	}
	for n := len(lines); n > 1; n-- {
		data = data[:len(data)-len(lines[n-1])]
		if syntaxMessage(data) != message {
			return n
		}
	}
	return 1
}

// syntaxMessage returns the message of the first syntax error, "" for none.
func syntaxMessage(data []byte) string {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document yaml.Node
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			return ""
		} else if err != nil {
			message, _ := splitSyntaxError(err)
			return message
		}
	}
}
