// SPDX-License-Identifier: Apache-2.0

// Command grafana writes docs/grafana-dashboard.json. It is a module of its own: what makes the dashboard is no
// dependency of the program (make generate).
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: grafana FILE")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "grafana:", err)
		os.Exit(1)
	}
}

func write(path string) error {
	dashboard, err := board().Build()
	if err != nil {
		return fmt.Errorf("build the dashboard: %w", err)
	}
	number(dashboard.Panels)
	text, err := json.MarshalIndent(dashboard, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the dashboard: %w", err)
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
