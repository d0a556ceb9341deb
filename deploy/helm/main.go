// SPDX-License-Identifier: Apache-2.0

// Program helm makes plain manifests from the chart, as `helm template` does.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

const chartDir = "replypath"

// release is what the manifests call themselves. kube-system admits pods in the node's network everywhere.
var release = common.ReleaseOptions{Name: "replypath", Namespace: "kube-system", Revision: 1, IsInstall: true}

// manifests are the files that are made, and the values of each.
var manifests = map[string]map[string]any{
	"replypath.yaml": nil,
	"detach.yaml":    {"detach": true},
}

const made = "# Made from deploy/helm/replypath by `make generate`: do not edit.\n"

func main() {
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "helm:", err)
		os.Exit(1)
	}
}

// generate writes the manifests to a directory.
func generate(dir string) error {
	for name, values := range manifests {
		objects, err := render(values)
		if err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
		text := made + strings.Join(objects, "")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// render returns what the chart makes of values, one document for each template, as text.
func render(values map[string]any) ([]string, error) {
	chart, err := loader.LoadDir(chartDir)
	if err != nil {
		return nil, fmt.Errorf("load the chart: %w", err)
	}
	all, err := util.ToRenderValues(chart, values, release, nil)
	if err != nil {
		return nil, fmt.Errorf("take values: %w", err)
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return nil, fmt.Errorf("render the chart: %w", err)
	}
	var objects []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if text := strings.TrimSpace(files[name]); filepath.Ext(name) == ".yaml" && text != "" {
			objects = append(objects, "---\n"+text+"\n")
		}
	}
	return objects, nil
}
