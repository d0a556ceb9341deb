package main

import (
	"replypath/loader"
	"replypath/metrics"
)

// attached is a loader that the metrics are read from.
type attached struct{ *loader.Loader }

// Source implements datapath.
func (a attached) Source() metrics.Source { return a }
