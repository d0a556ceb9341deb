// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"io"

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
	if document == nil {
		return config, nil
	}
	root := value{node: document, file: file, line: document.Line}
	if root.null() {
		return config, nil
	}
	return config, bounded(root.object("a map", config.fields()))
}

// parseDocument returns the root of the only YAML document, nil where there is
// none.
func parseDocument(file string, data []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, syntaxError(file, data, err)
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, &Error{File: file, Line: second.Line,
			Message: "a second document starts here: keep all keys in one, without a line of ---"}
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(file, data, err)
	}
	return first.Content[0], nil
}
