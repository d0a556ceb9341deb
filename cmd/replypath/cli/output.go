// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"reflect"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/output"
)

const (
	formatTable = "table"
	formatJSON  = "json"
)

// Output is how a reading command prints.
type Output struct{ format string }

// AddOutput gives a command the flag -o.
func AddOutput(c *cobra.Command) *Output {
	o := &Output{format: formatTable}
	AddChoice(c, &o.format, "output", "o", "format", "table or json, whose keys the man page has", formatTable, formatJSON)
	return o
}

// JSON tells whether programs read what is printed, not people.
func (o *Output) JSON() bool { return o.format == formatJSON }

// Print writes document as JSON, or the page that show fills. The error is that of writing.
func (o *Output) Print(w io.Writer, document any, show func(*output.Page)) error {
	if o.JSON() {
		fillLists(reflect.ValueOf(document))
		encoder := output.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(document)
	}
	page := output.NewPage(w)
	show(page)
	_, err := page.WriteTo(w)
	return err
}

// fillLists makes lists and maps without items show as [] and {} rather than null.
func fillLists(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			fillLists(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fillLists(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.IsNil() && v.CanSet() {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		}
		for i := range v.Len() {
			fillLists(v.Index(i))
		}
	case reflect.Map:
		if v.IsNil() && v.CanSet() {
			v.Set(reflect.MakeMap(v.Type()))
		}
	}
}
