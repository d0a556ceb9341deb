// SPDX-License-Identifier: Apache-2.0

// Package output writes what the commands tell: tables, JSON, and the values in them as people read them.
package output

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
)

// NewEncoder returns what writes an object a line, and < and > as they are.
func NewEncoder(w io.Writer) *json.Encoder {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder
}

// JSONList writes an array of objects that come a few at a time, as Print writes one that is there.
type JSONList struct {
	w       *bufio.Writer
	encoder *json.Encoder
	object  bytes.Buffer
	before  string // what comes before the next object
}

// NewJSONList begins an array.
func NewJSONList(w io.Writer) *JSONList {
	l := &JSONList{w: bufio.NewWriter(w), before: "[\n  "}
	l.encoder = NewEncoder(&l.object)
	l.encoder.SetIndent("  ", "  ")
	return l
}

// Append writes some objects of an array.
func Append[T any](l *JSONList, list []T) error {
	for i := range list {
		l.object.Reset()
		l.object.WriteString(l.before)
		if err := l.encoder.Encode(&list[i]); err != nil {
			return err
		}
		if _, err := l.w.Write(bytes.TrimSuffix(l.object.Bytes(), []byte("\n"))); err != nil {
			return err
		}
		l.before = ",\n  "
	}
	return nil
}

// End ends the array.
func (l *JSONList) End() error {
	end := "\n]\n"
	if l.object.Len() == 0 {
		end = "[]\n"
	}
	if _, err := l.w.WriteString(end); err != nil {
		return err
	}
	return l.w.Flush()
}

// WantsColour tells whether people look at what is written, and do not object to colours: https://no-color.org
func WantsColour(w io.Writer) bool { return IsTerminal(w) && os.Getenv("NO_COLOR") == "" }
