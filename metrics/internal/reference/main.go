// Command reference writes the reference of the metrics, docs/METRICS.md, from
// their descriptions.
package main

import (
	"bytes"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"strings"
	"text/template"

	"replypath/metrics"
)

//go:embed METRICS.md.tmpl
var page string

func main() {
	out := flag.String("o", "/dev/stdout", "the file to write")
	flag.Parse()
	if err := write(*out); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

func write(path string) error {
	content, err := render(metrics.Descriptions())
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

func render(descriptions []metrics.Description) ([]byte, error) {
	t, err := template.New("METRICS.md").Funcs(template.FuncMap{"labels": labels}).Parse(page)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, descriptions)
	return b.Bytes(), err
}

func labels(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return "`" + strings.Join(names, "`, `") + "`"
}
