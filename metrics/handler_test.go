// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"replypath/test/await"
)

func newTestHandler(t *testing.T, source Source, log *slog.Logger) http.Handler {
	t.Helper()
	return await.Must1[http.Handler](t)(NewHandler(source, "1.2.3", log))
}

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestMetricsPageErrors(t *testing.T) {
	var log strings.Builder
	source := &fakeSource{}
	h := newTestHandler(t, source, slog.New(slog.NewTextHandler(&log, nil)))

	source.fail(errors.New("map is gone"))
	for range 3 {
		w := get(h, "/metrics")
		if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "map is gone") {
			t.Fatalf("got status %d: %s", w.Code, w.Body)
		}
		if strings.Contains(w.Body.String(), "go_goroutines") {
			t.Error("a failed scrape shows figures")
		}
	}
	await.Same(t, "times that a failure is logged", 1, strings.Count(log.String(), "scrape failed"))

	source.fail(nil)
	for range 3 {
		if w := get(h, "/metrics"); w.Code != http.StatusOK {
			t.Fatalf("got status %d: %s", w.Code, w.Body)
		}
	}
	await.Same(t, "times that the end of it is logged", 1, strings.Count(log.String(), "scrape works again"))
}

func TestHealthz(t *testing.T) {
	for _, tt := range []struct {
		name   string
		source *fakeSource
		code   int
		body   string
	}{
		{"all attached", &fakeSource{}, http.StatusOK, "ok\n"},
		{"some not", &fakeSource{lacking: []string{"not attached: eth0, eth1", "refused"}}, http.StatusServiceUnavailable, "not attached: eth0, eth1\nrefused\n"},
		{"slow", &fakeSource{age: 80 * time.Second}, http.StatusOK, "ok\n"},
		{
			"hung", &fakeSource{age: 95*time.Second + 100*time.Millisecond, err: errors.New("nobody is to wait for")},
			http.StatusServiceUnavailable, "the daemon hangs: its last pass was 1m35s ago\n",
		},
		{"unknown", &fakeSource{err: errors.New("map is gone")}, http.StatusServiceUnavailable, "cannot tell: map is gone\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := get(newTestHandler(t, tt.source, slog.New(slog.DiscardHandler)), "/healthz")
			if w.Code != tt.code || w.Body.String() != tt.body {
				t.Errorf("got %d %q, want %d %q", w.Code, w.Body, tt.code, tt.body)
			}
		})
	}
}

// fakeSource is a Source whose answers a test sets.
type fakeSource struct {
	mu      sync.Mutex
	samples Samples
	lacking []string
	err     error
	age     time.Duration // of the last pass
}

func (s *fakeSource) Passed() time.Time { return time.Now().Add(-s.age) }

func (s *fakeSource) Snapshot() (Samples, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.samples, s.err
}

func (s *fakeSource) Lacking() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lacking, s.err
}

func (s *fakeSource) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}
