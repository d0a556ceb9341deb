// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/documents"
	"replypath/test/product"
)

func TestMain(m *testing.M) { product.Main(m) }

// checkout is where make is run.
const checkout = ".."

// released is what `make release` has made, once for all tests. It lasts as long as the sandbox.
var released string

// release returns the directory of a release.
func release(t *testing.T) string {
	t.Helper()
	if released == "" {
		dir := await.Must1[string](t)(os.MkdirTemp("", "release-"))
		makeRelease(t, dir, "022")
		released = dir
	}
	return released
}

// makeRelease makes one under a umask.
func makeRelease(t *testing.T, dir, umask string) {
	t.Helper()
	var names []string
	for _, a := range chosen(t) {
		names = append(names, a.name)
	}
	run(t, "sh", "-euc", `umask $0 && exec make --silent -C "$@"`, umask, checkout, "release", "RELEASE="+dir,
		"ARCHITECTURES="+strings.Join(names, " "), "BINARY="+filepath.Join(t.TempDir(), "replypath"))
}

// run runs a command, wants success and returns what it wrote.
func run(t *testing.T, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), args[0], args[1:]...)
	c.Env = append(os.Environ(), "MAKEFLAGS=") // what the tests were called with is not for this one
	output, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// one returns the only file of a release that matches.
func one(t *testing.T, pattern string) string {
	t.Helper()
	found := await.Must1[[]string](t)(filepath.Glob(filepath.Join(release(t), pattern)))
	if len(found) != 1 {
		t.Fatalf("%s: %q", pattern, found)
	}
	return found[0]
}

// TestReleaseAgain makes a release twice, the second time for a user who keeps files to himself: they are the same.
func TestReleaseAgain(t *testing.T) {
	first, second := release(t), t.TempDir()
	makeRelease(t, second, "077")
	for _, dir := range []string{first, second} {
		run(t, "sh", "-euc", `cd "$0" && sha256sum --check --quiet --strict SHA256SUMS`, dir)
	}
	sums := run(t, "cat", filepath.Join(first, "SHA256SUMS"))
	await.Same(t, "a release made twice", sums, run(t, "cat", filepath.Join(second, "SHA256SUMS")))
	files := strings.Split(strings.TrimSpace(run(t, "find", first, "-type", "f", "-printf", `%P\n`)), "\n")
	for _, file := range files {
		if file != "SHA256SUMS" && !strings.Contains(sums, "  "+file+"\n") {
			t.Errorf("%s has no checksum", file)
		}
	}
	t.Logf("%d files are the same", len(files)-1)
}

// TestLint wants lintian and rpmlint to find neither errors nor warnings, and each override of lintian to be needed.
func TestLint(t *testing.T) {
	said := run(t, "lintian", "--allow-root", "--display-info", "--fail-on", "error,warning", one(t, "apt/pool/*_"+runtime.GOARCH+".deb"))
	t.Log(said)
	if strings.Contains(said, "-override") { // unused or mismatched, which it calls an information
		t.Error("an override is not needed")
	}
	rpmlint := []string{"env", "PATH=" + relativeCpio(t) + ":" + os.Getenv("PATH"), "rpmlint", "--strict", "--config", "rpmlint.toml"}
	for _, a := range chosen(t) {
		rpmlint = append(rpmlint, one(t, "dnf/*."+a.rpm+".rpm"))
	}
	t.Log(run(t, rpmlint...))
	if _, err := os.Stat("/usr/bin/replypath"); err == nil {
		t.Error("/usr/bin/replypath is there: rpmlint has unpacked the package over this machine, or it is installed")
	}
}

// relativeCpio returns a directory with a cpio that unpacks below the working directory: rpmlint's own call, as root,
// would put nfpm's files, which have absolute names, where a host has them.
func relativeCpio(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\nexec /usr/bin/cpio --no-absolute-filenames \"$@\"\n"
	await.Must(t, os.WriteFile(filepath.Join(dir, "cpio"), []byte(script), 0o755))
	return dir
}

// TestReleaseNamesCommit wants the binary to say of which commit it is.
func TestReleaseNamesCommit(t *testing.T) {
	commit := strings.TrimSpace(run(t, "git", "-C", checkout, "rev-parse", "HEAD"))
	said := run(t, one(t, "replypath-*-linux-"+runtime.GOARCH), "--version")
	if !regexp.MustCompile(`\(commit ` + commit[:12] + `(-dirty)?, go`).MatchString(said) {
		t.Errorf("commit %s is not in %q", commit, said)
	}
}

// TestRepositories has apt and dnf find the packages of each architecture where `make release` has put them.
func TestRepositories(t *testing.T) {
	state, conf := t.TempDir(), t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(conf, name)
		await.Must(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	list := write("list", "deb [trusted=yes] file:"+release(t)+"/apt stable main\n")
	settings := write("dnf.conf", "[main]\ncachedir="+state+"/cache\npersistdir="+state+"\nlogdir="+state+"\nreposdir="+conf+
		"\n[replypath]\nname=replypath\nbaseurl=file://"+release(t)+"/dnf\ngpgcheck=0\n")
	for _, a := range chosen(t) {
		apt := []string{
			"apt-get", "-qq", "-o", "Dir::Etc::SourceList=" + list, "-o", "Dir::Etc::SourceParts=/dev/null",
			"-o", "Dir::State::Lists=" + state, "-o", "Dir::Cache=" + state, "-o", "APT::Sandbox::User=root",
			// On a host of this architecture, with nothing installed.
			"-o", "APT::Architecture=" + a.name, "-o", "APT::Architectures=" + a.name, "-o", "Dir::State::status=/dev/null",
		}
		run(t, append(slices.Clone(apt), "update")...)
		install := append(apt, "install", "--yes", "replypath")
		run(t, append(slices.Clone(install), "--download-only")...)
		found := run(t, append(install, "--print-uris")...)
		await.Says(t, "what apt finds on "+a.name, found, one(t, "apt/pool/*_"+a.name+".deb"))
		found = run(t, "dnf", "--quiet", "--config", settings, "--releasever=1", "repoquery", "--arch="+a.rpm,
			"--queryformat=%{location}", "replypath")
		await.Same(t, "what dnf finds on "+a.rpm, filepath.Base(one(t, "dnf/*."+a.rpm+".rpm")), strings.TrimSpace(found))
	}
}

// TestBillOfMaterials wants the modules and Go itself to be in the bill of materials, with versions.
func TestBillOfMaterials(t *testing.T) {
	var bill struct {
		BOMFormat  string
		Components []struct{ Name, Version string }
	}
	await.Must(t, json.Unmarshal(await.Must1[[]byte](t)(os.ReadFile(one(t, "*-"+runtime.GOARCH+".cdx.json"))), &bill))
	await.Same(t, "form of the bill", "CycloneDX", bill.BOMFormat)
	for _, name := range []string{"github.com/cilium/ebpf", "golang.org/x/sys", "std"} {
		if !slices.ContainsFunc(bill.Components, func(c struct{ Name, Version string }) bool {
			return c.Name == name && c.Version != ""
		}) {
			t.Errorf("%s is not in %+v", name, bill.Components)
		}
	}
}

// TestPackagedPages wants README and recipes to be in the package, and the links of its pages to lead to files of it.
func TestPackagedPages(t *testing.T) {
	dir := t.TempDir()
	run(t, "dpkg-deb", "--extract", one(t, "apt/pool/*_"+runtime.GOARCH+".deb"), dir)
	root := filepath.Join(dir, "usr/share/doc/replypath")
	pages := await.Must1[[]*documents.Page](t)(documents.Pages(root))
	links := 0
	for _, page := range pages {
		for _, link := range page.Links() {
			path, _, _ := strings.Cut(link.Text, "#")
			if path == "" || strings.Contains(path, "://") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page.Path), path)); err != nil {
				t.Errorf("%s: link %s leads to no file of the package", page.At(link.Line), link.Text)
			}
		}
	}
	for _, wanted := range []string{"README.md", "docs/guide/recipes/README.md"} {
		if !slices.ContainsFunc(pages, func(p *documents.Page) bool { return p.Path == wanted }) {
			t.Errorf("%s is not in the package", wanted)
		}
	}
	t.Logf("%d pages, %d links", len(pages), links)
}
