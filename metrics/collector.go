// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

var buildInfo = Gauge("build_info", "1, with the version of replypath and of Go as labels.", "version", "goversion")

// collector shows a Source to Prometheus.
type collector struct {
	source  Source
	version string
}

// NewCollector returns a collector that reads source at every scrape. version is
// the product's, for replypath_build_info.
func NewCollector(source Source, version string) prometheus.Collector {
	return &collector{source: source, version: version}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, f := range families {
		descs <- f.desc
	}
}

// Collect implements [prometheus.Collector]. Where the source fails it sends one
// invalid metric, which makes the registry's Gather fail.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	samples, err := c.source.Snapshot()
	if err != nil {
		metrics <- prometheus.NewInvalidMetric(buildInfo.desc, fmt.Errorf("read the datapath: %w", err))
		return
	}
	metrics <- (&Sample{buildInfo, 1, []string{c.version, runtime.Version()}}).metric()
	for i := range samples {
		metrics <- samples[i].metric()
	}
}

func (s *Sample) metric() prometheus.Metric {
	labels := make([]string, len(s.Labels))
	for i, label := range s.Labels {
		// The kernel takes any bytes in an interface name, Prometheus only UTF-8.
		labels[i] = strings.ToValidUTF8(label, "\uFFFD")
	}
	metric, err := prometheus.NewConstMetric(s.Of.desc, s.Of.valueType, s.Value, labels...)
	if err != nil {
		return prometheus.NewInvalidMetric(s.Of.desc, err)
	}
	return metric
}
