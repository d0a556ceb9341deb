// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"

	"replypath/loader/config"
)

// logControl changes level and format of a logger that is in use.
type logControl struct {
	level  slog.LevelVar
	asJSON atomic.Bool
}

func (c *logControl) set(settings config.Log) {
	c.level.Set(settings.Level)
	c.asJSON.Store(settings.Format == config.FormatJSON)
}

// newLogger returns a logger as a configuration wants it, and what changes it.
func newLogger(w io.Writer, settings config.Log) (*slog.Logger, *logControl) {
	control := new(logControl)
	control.set(settings)
	options := &slog.HandlerOptions{Level: &control.level}
	return slog.New(&formats{
		text: slog.NewTextHandler(w, options), json: slog.NewJSONHandler(w, options), asJSON: &control.asJSON,
	}), control
}

// formats is a slog.Handler that writes in either format.
type formats struct {
	text, json slog.Handler
	asJSON     *atomic.Bool
}

func (f *formats) Enabled(ctx context.Context, level slog.Level) bool {
	return f.text.Enabled(ctx, level)
}

func (f *formats) Handle(ctx context.Context, record slog.Record) error {
	if f.asJSON.Load() {
		return f.json.Handle(ctx, record)
	}
	return f.text.Handle(ctx, record)
}

func (f *formats) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &formats{f.text.WithAttrs(attrs), f.json.WithAttrs(attrs), f.asJSON}
}

func (f *formats) WithGroup(name string) slog.Handler {
	return &formats{f.text.WithGroup(name), f.json.WithGroup(name), f.asJSON}
}
