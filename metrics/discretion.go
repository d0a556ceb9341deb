// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"log/slog"
	"regexp"
	"time"

	"golang.org/x/time/rate"
)

// quoted is what the YAML decoder's messages quote of a file. In a web
// configuration it may be a password that stands in the wrong place.
var quoted = regexp.MustCompile("(?s)`.*?` (into )|(anchor )'.*?' ")

// withoutQuotes returns a message that shows nothing of the file which it is about.
func withoutQuotes(message string) string {
	return quoted.ReplaceAllString(message, "$1$2")
}

// discreet is an error of a web configuration.
type discreet struct{ error }

func (e discreet) Error() string { return withoutQuotes(e.error.Error()) }

func (e discreet) Unwrap() error { return e.error }

// webLog takes what the web server and exporter-toolkit log: nothing about a good
// start, which serve tells in its own words, and no secrets.
type webLog struct {
	slog.Handler
	limit *rate.Limiter // nil for none
}

// newSparing returns a log that whoever can connect could fill: a few lines at once, and then one in a while.
func newSparing(log slog.Handler) slog.Handler {
	return webLog{log, rate.NewLimiter(rate.Every(time.Minute), 10)}
}

func (h webLog) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

func (h webLog) Handle(ctx context.Context, r slog.Record) error {
	if h.limit != nil && !h.limit.Allow() {
		return nil
	}
	record := slog.NewRecord(r.Time, r.Level, withoutQuotes(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		record.AddAttrs(slog.String(a.Key, withoutQuotes(a.Value.String())))
		return true
	})
	return h.Handler.Handle(ctx, record)
}

func (h webLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return webLog{h.Handler.WithAttrs(attrs), h.limit}
}

func (h webLog) WithGroup(name string) slog.Handler {
	return webLog{h.Handler.WithGroup(name), h.limit}
}
