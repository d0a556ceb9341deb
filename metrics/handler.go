// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/exporter-toolkit/web"
)

// maxScrapes bounds how many scrapes walk the flow tables at the same time; what
// comes on top gets 503.
const maxScrapes = 8

// NewHandler returns the handler of /metrics, /healthz and the landing page.
// Errors of the source are written to log when they begin and when they end.
func NewHandler(source Source, version string, log *slog.Logger) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		NewCollector(source, version),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	landing, err := web.NewLandingPage(web.LandingConfig{
		Name:        "replypath",
		Description: "Replies leave by the interface of the request",
		Version:     version,
		Profiling:   "false",
		Links: []web.LandingLinks{
			{Address: "/metrics", Text: "Metrics", Description: "for Prometheus"},
			{Address: "/healthz", Text: "Health", Description: "whether every managed interface is attached, and the daemon works"},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make the landing page: %w", err)
	}
	scrapes, checks := &transitions{log: log, subject: "scrape"}, &transitions{log: log, subject: "health check"}
	gather := func() ([]*dto.MetricFamily, error) {
		gathered, err := registry.Gather()
		scrapes.note(err)
		return gathered, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.GathererFunc(gather),
		promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: maxScrapes}))
	healthy := func(w http.ResponseWriter, _ *http.Request) { serveHealth(w, source, checks) }
	mux.Handle("GET /healthz", unlessHung(source, http.HandlerFunc(healthy)))
	mux.Handle("GET /", unlessHung(source, landing))
	return mux, nil
}

// longestPass is how long the loop of a source may take to go round.
const longestPass = 90 * time.Second

// Hangs says so of a daemon whose loop went round last so long ago, "" of one that works.
func Hangs(passed time.Time) string {
	age := time.Since(passed)
	if age <= longestPass {
		return ""
	}
	return fmt.Sprintf("the daemon hangs: its last pass was %s ago", age.Truncate(time.Second))
}

// unlessHung answers 503 while the loop of a source hangs, whose lock or socket others would wait for.
func unlessHung(source Source, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hangs := Hangs(source.Passed()); hangs != "" {
			http.Error(w, hangs, http.StatusServiceUnavailable)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// serveHealth answers 200 while nothing is lacking.
func serveHealth(w http.ResponseWriter, source Source, log *transitions) {
	lacking, err := source.Lacking()
	log.note(err)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	switch {
	case err != nil:
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "cannot tell: %v\n", err)
	case len(lacking) > 0:
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, strings.Join(lacking, "\n"))
	default:
		io.WriteString(w, "ok\n")
	}
}

// transitions logs the first error of a row of errors and the end of the row:
// a scrape every few seconds must not become a line every few seconds.
type transitions struct {
	log     *slog.Logger
	subject string
	failing atomic.Bool
}

func (t *transitions) note(err error) {
	failing := err != nil
	if t.failing.Swap(failing) == failing {
		return
	}
	if failing {
		t.log.Error(t.subject+" failed", "error", err)
	} else {
		t.log.Info(t.subject + " works again")
	}
}
