// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"replypath/test/await"
)

const deadline = 10 * time.Second

func options(t *testing.T) Options {
	return Options{
		Listen:  "127.0.0.1:0",
		Source:  &fakeSource{},
		Version: "1.2.3",
		Log:     slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// start serves o until the test ends, and returns the address.
func start(t *testing.T, o Options) string {
	t.Helper()
	listener := await.Must1[net.Listener](t)(listen(t.Context(), o))
	result := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { result <- serve(ctx, listener, o) }()
	t.Cleanup(func() {
		cancel()
		if err := await.Receive(t, result); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return listener.Addr().String()
}

// fetch returns status and body of an answer.
func fetch(t *testing.T, client *http.Client, request *http.Request) (int, string) {
	t.Helper()
	defer client.CloseIdleConnections()
	response := await.Must1[*http.Response](t)(client.Do(request.WithContext(t.Context())))
	defer response.Body.Close()
	body := await.Must1[[]byte](t)(io.ReadAll(response.Body))
	return response.StatusCode, string(body)
}

func newRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	return await.Must1[*http.Request](t)(http.NewRequest(http.MethodGet, url, nil))
}

func newClient(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Timeout:   deadline,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
	}
}

// wantStatus asks with a password, or without.
func wantStatus(t *testing.T, roots *x509.CertPool, url, password string, want int) {
	t.Helper()
	request := newRequest(t, url)
	if password != "" {
		request.SetBasicAuth("prometheus", password)
	}
	if status, body := fetch(t, newClient(roots), request); status != want {
		t.Errorf("%s with the password %q: got %d, want %d: %s", url, password, status, want, body)
	}
}

func TestTLSAndBasicAuth(t *testing.T) {
	const server = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}"
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	o := options(t)
	o.WebConfigFile = writeWebConfig(t, dir, server, "secret")
	address := start(t, o)
	for _, path := range []string{"/", "/metrics", "/healthz"} {
		wantStatus(t, roots, "https://"+address+path, "", http.StatusUnauthorized)
		wantStatus(t, roots, "https://"+address+path, "guess", http.StatusUnauthorized)
		wantStatus(t, roots, "https://"+address+path, "secret", http.StatusOK)
	}
	wantStatus(t, nil, "http://"+address+"/metrics", "", http.StatusBadRequest)

	// Users and certificates are read again at every request: no restart for new ones.
	writeWebConfig(t, dir, server, "changed")
	wantStatus(t, roots, "https://"+address+"/metrics", "changed", http.StatusOK)
	wantStatus(t, writeCertificate(t, dir), "https://"+address+"/metrics", "changed", http.StatusOK)
}

func TestBasicAuthWithoutTLS(t *testing.T) {
	o := options(t)
	o.WebConfigFile = writeWebConfig(t, t.TempDir(), "", "secret")
	url := "http://" + start(t, o) + "/metrics"
	wantStatus(t, nil, url, "", http.StatusUnauthorized)
	wantStatus(t, nil, url, "secret", http.StatusOK)
}

// What stands in the wrong place of a web configuration is never shown: neither when the file is checked, nor when it went
// bad while it is in use.
func TestSecretsAreNotShown(t *testing.T) {
	const secret = "s3cr3t!"
	for name, content := range map[string]string{
		"short password for the users": "basic_auth_users: " + secret,
		"long password for the users":  "basic_auth_users: " + secret + secret + secret,
		"hash for the users":           "basic_auth_users: $2y$10$" + secret + secret,
		"several lines":                "basic_auth_users: |\n  s3c\n  `" + secret + "`\n  s3c\n",
		"several keys":                 "tls_server_config: " + secret + "\nbasic_auth_users: " + secret,
		"alias":                        "basic_auth_users: {prometheus: *s3cr3t}",
		"clear text":                   "basic_auth_users: {prometheus: " + secret + "}",
		"bad hash":                     "basic_auth_users: {prometheus: $2y$99$" + secret + "}",
		"open quote":                   "basic_auth_users: {prometheus: \"" + secret + "}",
		"twice":                        "basic_auth_users: {prometheus: " + secret + ", prometheus: " + secret + "}",
		"key in the file":              "tls_server_config: {cert: x, key: " + secret + "}",
	} {
		t.Run(name, func(t *testing.T) {
			said := new(await.Log)
			t.Cleanup(func() { // after the server has ended
				if strings.Contains(said.String(), "s3c") || strings.Contains(said.String(), "cr3t") {
					t.Errorf("it says %s", said)
				}
			})
			for scheme, server := range map[string]string{"https": "tls_server_config: {cert_file: cert.pem, key_file: key.pem}", "http": ""} {
				dir := t.TempDir()
				roots := writeCertificate(t, dir)
				o := options(t)
				o.Log = slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug}))
				o.WebConfigFile = writeWebConfig(t, dir, server, "right")
				url := scheme + "://" + start(t, o) + "/metrics"
				wantStatus(t, roots, url, "", http.StatusUnauthorized)
				await.Must(t, os.WriteFile(o.WebConfigFile, []byte(content), 0o600))
				err := CheckWebConfig(o.WebConfigFile)
				if err == nil {
					t.Fatal("it is valid")
				}
				fmt.Fprintln(said, err)
				if response, err := newClient(roots).Do(newRequest(t, url)); err == nil {
					response.Body.Close()
				}
			}
			t.Log(said)
		})
	}
}

// writeWebConfig writes a web configuration with one user, prometheus.
func writeWebConfig(t *testing.T, dir, content, password string) string {
	t.Helper()
	hash := await.Must1[[]byte](t)(bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost))
	path := filepath.Join(dir, "web.yaml")
	content = fmt.Sprintf("%s\nbasic_auth_users: {prometheus: %s}\n", content, hash)
	await.Must(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// writeCertificate writes cert.pem and key.pem for the loopback addresses and returns the pool that trusts them.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key := await.Must1[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der := await.Must1[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	keyDER := await.Must1[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, content := range map[string][]byte{
		"cert.pem": certificate,
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	} {
		await.Must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	return roots
}
