// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/short"
)

// architecture is one that a release is for, by the names that others have for it.
type architecture struct {
	name    string // Go's, Debian's and that of images
	rpm     string
	machine elf.Machine
}

var architectures = []architecture{
	{"amd64", "x86_64", elf.EM_X86_64},
	{"arm64", "aarch64", elf.EM_AARCH64},
}

// chosen are those that a release of these tests is for. To compile for another than this machine's takes a minute.
func chosen(t *testing.T) []architecture {
	t.Helper()
	if short.Long(t, "architectures other than "+runtime.GOARCH) {
		return architectures
	}
	return slices.DeleteFunc(slices.Clone(architectures), func(a architecture) bool { return a.name != runtime.GOARCH })
}

// TestArchitectures wants a release to have all for each architecture: packages and image say that they are for it, and
// hold its binary. TestReleaseAgain shows that each is the same when it is made again.
func TestArchitectures(t *testing.T) {
	images := readImages(t, one(t, "*.oci.tar"))
	for _, a := range chosen(t) {
		t.Run(a.name, func(t *testing.T) {
			binary := one(t, "replypath-*-linux-"+a.name)
			wantStatic(t, binary, a.machine)
			deb, rpm := one(t, "apt/pool/*_"+a.name+".deb"), one(t, "dnf/*."+a.rpm+".rpm")
			want := fmt.Sprintf("%x", sha256.Sum256(await.Must1[[]byte](t)(os.ReadFile(binary))))
			const ofRPM = `[%{FILENAMES} %{FILEDIGESTS}\n]`
			for what, c := range map[string]struct{ got, want string }{
				"architecture of the deb":    {run(t, "dpkg-deb", "--field", deb, "Architecture"), a.name + "\n"},
				"architecture of the rpm":    {run(t, "rpm", "--query", "--queryformat", "%{ARCH}", "--package", rpm), a.rpm},
				"binary of the deb":          {run(t, "sh", "-c", `dpkg-deb --fsys-tarfile "$0" | tar -xO ./usr/bin/replypath | sha256sum`, deb), want + "  -\n"},
				"binary of the rpm":          {run(t, "sh", "-c", `rpm --query --queryformat "$1" --package "$0" | grep ^/usr/bin/`, rpm, ofRPM), "/usr/bin/replypath " + want + "\n"},
				"architecture of the image":  {images[a.name].Config.Architecture, a.name},
				"binary of the image":        {run(t, "sh", "-c", `tar -xzOf "$0" usr/bin/replypath | sha256sum`, images[a.name].layer), want + "  -\n"},
				"program of its bill, named": {filepath.Base(one(t, "*-"+a.name+".cdx.json")), filepath.Base(binary) + ".cdx.json"},
			} {
				await.Same(t, what, c.want, c.got)
			}
		})
	}
	await.Same(t, "images in the archive", len(chosen(t)), len(images))
}

// wantStatic wants a binary for a machine that needs no library of the host.
func wantStatic(t *testing.T, path string, machine elf.Machine) {
	t.Helper()
	f := await.Must1[*elf.File](t)(elf.Open(path))
	defer f.Close()
	await.Same(t, "machine of "+path, machine, f.Machine)
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is linked dynamically", path)
		}
	}
}

// image is one of an archive of images.
type image struct {
	Config struct{ Architecture, OS string }
	layer  string // path of its only one
}

// ociEntry is what indices and manifests name a blob by.
type ociEntry struct {
	Digest   string
	Platform struct{ Architecture, OS string }
}

// readImages reads an OCI archive: the images by the architecture that its index gives them.
func readImages(t *testing.T, archive string) map[string]image {
	t.Helper()
	dir := t.TempDir()
	run(t, "tar", "-xf", archive, "-C", dir)
	blob := func(e ociEntry) string {
		return filepath.Join(dir, "blobs", strings.ReplaceAll(e.Digest, ":", "/"))
	}
	var top, index struct{ Manifests []ociEntry }
	readJSON(t, filepath.Join(dir, "index.json"), &top)
	readJSON(t, blob(top.Manifests[0]), &index)
	images := make(map[string]image)
	for _, e := range index.Manifests {
		var manifest struct {
			Config ociEntry
			Layers []ociEntry
		}
		readJSON(t, blob(e), &manifest)
		if len(manifest.Layers) != 1 || e.Platform.OS != "linux" {
			t.Errorf("%+v: %+v", e, manifest)
		}
		one := image{layer: blob(manifest.Layers[0])}
		readJSON(t, blob(manifest.Config), &one.Config)
		images[e.Platform.Architecture] = one
	}
	return images
}

func readJSON(t *testing.T, path string, to any) {
	t.Helper()
	await.Must(t, json.Unmarshal(await.Must1[[]byte](t)(os.ReadFile(path)), to))
}
