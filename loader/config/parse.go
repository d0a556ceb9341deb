// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Parse reads a configuration; file is only named in errors, all of which match ErrInvalid. Data
// without any key is the default configuration. Of what is wrong with several values the error
// has a line each, and what could be read comes with it, for whoever looks for more.
func Parse(file string, data []byte) (*Config, error) {
	document, err := parseDocument(file, data)
	if err != nil {
		return nil, err
	}
	config := Default()
	if document == nil || isNull(document) {
		return config, nil
	}
	d := decoder{file: file}
	d.set(reflect.ValueOf(config).Elem(), valueOf(document, ""))
	return config, joined(d.errs)
}

// parseDocument returns the root of the only YAML document, nil where there is
// none.
func parseDocument(file string, data []byte) (*yaml.Node, error) {
	documents, read, err := parseDocuments(data)
	switch {
	case err != nil:
		return nil, syntaxError(file, data[:read], err)
	case len(documents) > 1:
		return nil, &Error{File: file, Line: documents[1].Line,
			Message: "a second document starts here: keep all keys in one, without a line of ---"}
	case len(documents) == 0:
		return nil, nil
	}
	return documents[0].Content[0], nil
}

// parseDocuments returns two documents at most, and how far the library has read.
func parseDocuments(data []byte) (documents []*yaml.Node, read int, err error) {
	text := bytes.NewReader(data)
	decoder := yaml.NewDecoder(bytewise{text})
	for len(documents) < 2 {
		document := new(yaml.Node)
		if err := decoder.Decode(document); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, len(data) - text.Len(), err
		}
		documents = append(documents, document)
	}
	return documents, 0, nil
}

// bytewise reads a byte at a time, so that the library has read little more than what it complains about.
type bytewise struct{ io.Reader }

// Read reads one byte.
func (b bytewise) Read(buffer []byte) (int, error) { return b.Reader.Read(buffer[:1]) }

// yamlLine is where the YAML library puts the line into its messages.
var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

// syntaxError turns an error of the YAML library, which has read so far, into one of ours. Where it expects another
// token, it names the line before the one where the surrounding map or list begins.
func syntaxError(file string, read []byte, err error) error {
	prefix := yamlLine.FindStringSubmatch(err.Error())
	message := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), prefix[0])), " ")
	line, _ := strconv.Atoi(prefix[1]) // 0 for none
	if line == 0 || strings.HasPrefix(message, "did not find expected") {
		line = bytes.Count(withoutLookahead(read, err), []byte("\n")) + 1
	}
	return &Error{File: file, Line: line, Message: "not yaml: " + message, Err: err}
}

// withoutLookahead leaves out lines that were read and have no part in an error: some, and of a file of usual size, as
// all is read again for each.
func withoutLookahead(read []byte, err error) []byte {
	const mostLines, mostBytes = 8, 64 << 10
	for n := 0; n < mostLines && len(read) <= mostBytes; n++ {
		read = bytes.TrimRight(read, "\n")
		before := read[:bytes.LastIndexByte(read, '\n')+1]
		if _, _, again := parseDocuments(before); again == nil || again.Error() != err.Error() {
			break
		}
		read = before
	}
	return read
}
