// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// Family is a metric with its labels. docs/METRICS.md is made from what is exported.
type Family struct {
	Name   string
	Type   string // "counter" or "gauge"
	Labels []string
	Help   string
	// Reasons are the values of the label reason, where there is one.
	Reasons []Reason

	valueType prometheus.ValueType
	desc      *prometheus.Desc
}

// Reason is a value of the label reason.
type Reason struct{ Name, Meaning string }

// families holds every metric, in the order in which they were declared, which is that of the reference.
var families []*Family

// Families are all metrics, in the order in which they were declared.
func Families() []*Family { return families }

// Counter declares a metric that never falls. What shows figures declares its metrics once, before it has any.
func Counter(name, help string, labels ...string) *Family {
	return newFamily(prometheus.CounterValue, "counter", name, help, labels)
}

// Gauge declares a metric that rises and falls.
func Gauge(name, help string, labels ...string) *Family {
	return newFamily(prometheus.GaugeValue, "gauge", name, help, labels)
}

func newFamily(valueType prometheus.ValueType, typeName, name, help string, labels []string) *Family {
	name = "replypath_" + name
	f := &Family{
		Name: name, Type: typeName, Labels: labels, Help: help,
		valueType: valueType, desc: prometheus.NewDesc(name, help, labels, nil),
	}
	families = append(families, f)
	return f
}

// Because says what the values of the label reason mean.
func (f *Family) Because(reasons []Reason) *Family {
	f.Reasons = reasons
	return f
}

// Sample is the value of one series.
type Sample struct {
	Of     *Family
	Value  float64
	Labels []string // values, in the order of the family's labels
}

// Samples are what one scrape shows, each series once. Counters start when the pins were made and never go backwards
// while they stand.
type Samples []Sample

// Add appends the value of a series.
func (s *Samples) Add(f *Family, value float64, labels ...string) {
	*s = append(*s, Sample{f, value, labels})
}

// AddBool appends 1 for what is so, 0 for what is not.
func (s *Samples) AddBool(f *Family, is bool, labels ...string) {
	value := 0.0
	if is {
		value = 1
	}
	s.Add(f, value, labels...)
}
