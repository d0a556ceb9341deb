// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
)

// Options tell what to serve and where.
type Options struct {
	// Listen is host:port. An empty host stands for every address of the host,
	// an empty Listen for no server at all.
	Listen string
	// WebConfigFile is the path of an exporter-toolkit web configuration with
	// TLS certificates and users; empty: plain HTTP for everybody. The file is
	// read again at every connection and request.
	WebConfigFile string
	Source        Source
	Version       string // the product's
	Log           *slog.Logger
}

const (
	shutdownTimeout = 3 * time.Second

	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// ErrWebConfig is what an error of the web configuration file matches.
var ErrWebConfig = errors.New("web configuration")

// CheckWebConfig reports what is wrong with a web configuration file, without
// showing what is in it. An empty path is no error.
func CheckWebConfig(path string) error {
	err := checkWebFile(path)
	if err == nil {
		err = web.Validate(path)
	}
	if err == nil {
		return nil
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) && pathErr.Path == path {
		err = pathErr.Err // the path is named once
	}
	return fmt.Errorf("%w %s: %w", ErrWebConfig, path, discreet{err})
}

// maxWebConfig bounds what is read of a web configuration, for whoever names the wrong file.
const maxWebConfig = 1 << 20

// checkWebFile refuses what would be read without end, or waited for. That there is no file is for
// others to say.
func checkWebFile(path string) error {
	info, err := os.Stat(path)
	switch {
	case path == "" || err != nil || info.IsDir():
		return nil
	case !info.Mode().IsRegular():
		return errors.New("is not a regular file")
	case info.Size() > maxWebConfig:
		return fmt.Errorf("is larger than %d bytes", maxWebConfig)
	}
	return nil
}

// ServeUntil serves until ctx ends, whatever happens, and returns at the latest a
// few seconds later. While the address cannot be had, or the web configuration is
// not valid, it tries again, at first after a tenth of a second, later every five
// seconds: it never serves without the protection that was asked for. report is
// called with the first error of a row of failures, and with nil whenever serving
// begins.
//
// It listens in the network namespace of the calling thread.
func ServeUntil(ctx context.Context, o Options, report func(error)) {
	if o.Listen == "" {
		return
	}
	failing, wait := false, firstRetry
	for ctx.Err() == nil {
		listener, err := listen(ctx, o)
		if err == nil {
			report(nil)
			// Should serving break down, it must not do so in a tight loop.
			failing, wait = false, lastRetry
			err = serve(ctx, listener, o)
		}
		if ctx.Err() != nil {
			return
		}
		if !failing {
			report(err)
			failing = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, lastRetry)
	}
}

func listen(ctx context.Context, o Options) (net.Listener, error) {
	if err := CheckWebConfig(o.WebConfigFile); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("serve metrics at %s: %w", o.Listen, err)
	}
	return listener, nil
}

// serve answers on listener until ctx ends or serving breaks down, and closes
// it. The error, [http.ErrServerClosed] at the end of ctx, is never nil.
func serve(ctx context.Context, listener net.Listener, o Options) error {
	defer listener.Close()
	handler, err := NewHandler(o.Source, o.Version, o.Log)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(newSparing(o.Log.Handler()), slog.LevelWarn),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		shutdown(server)
	})
	o.Log.Info("serving metrics", "address", listener.Addr().String(), "web_config_file", o.WebConfigFile)
	flags := &web.FlagConfig{WebConfigFile: &o.WebConfigFile}
	err = web.Serve(listener, server, flags, slog.New(webLog{Handler: o.Log.Handler()}))
	if !stop() {
		<-stopped
	}
	return fmt.Errorf("serve metrics at %s: %w", o.Listen, discreet{err})
}

// shutdown lets running scrapes end, but not for ever.
func shutdown(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		server.Close()
	}
}
