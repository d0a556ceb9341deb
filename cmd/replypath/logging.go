package main

import (
	"io"
	"log/slog"

	"replypath/loader/config"
)

// newLogger returns a logger for one of the formats of a configuration, and the
// level, which may change while it is in use.
func newLogger(w io.Writer, settings config.Log) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(settings.Level)
	options := &slog.HandlerOptions{Level: level}
	if settings.Format == config.FormatJSON {
		return slog.New(slog.NewJSONHandler(w, options)), level
	}
	return slog.New(slog.NewTextHandler(w, options)), level
}
