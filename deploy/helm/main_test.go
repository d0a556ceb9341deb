// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/strvals"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"replypath/loader/config"
)

// kinds are all that the chart makes. Each object is decoded strictly: a field that its type has not is an error.
var kinds = map[string]func() any{
	"v1 ConfigMap":      func() any { return new(core.ConfigMap) },
	"v1 Service":        func() any { return new(core.Service) },
	"apps/v1 DaemonSet": func() any { return new(apps.DaemonSet) },
	"monitoring.coreos.com/v1 ServiceMonitor": func() any { return new(monitoring.ServiceMonitor) },
}

// rendered are the objects by their kind.
type rendered map[string]any

func (r rendered) daemonSet() *apps.DaemonSet { return r["DaemonSet"].(*apps.DaemonSet) }

func (r rendered) container() core.Container { return r.daemonSet().Spec.Template.Spec.Containers[0] }

// configuration is what the nodes get, as the program reads it.
func (r rendered) configuration(t *testing.T) *config.Config {
	t.Helper()
	text := r["ConfigMap"].(*core.ConfigMap).Data["replypath.yaml"]
	parsed, err := config.Parse("replypath.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return parsed
}

// valuesOf reads values as Helm reads a file of them.
func valuesOf(t *testing.T, text string) map[string]any {
	t.Helper()
	values := make(map[string]any)
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// objects renders values, and decodes what comes of them.
func objects(t *testing.T, values string) rendered {
	t.Helper()
	documents, err := render(valuesOf(t, values))
	if err != nil {
		t.Fatal(err)
	}
	found := make(rendered)
	for _, text := range strings.Split(strings.Join(documents, ""), "---\n")[1:] {
		var of meta.TypeMeta
		if err := yaml.Unmarshal([]byte(text), &of); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		kind := kinds[of.APIVersion+" "+of.Kind]
		if kind == nil {
			t.Fatalf("an object of an unknown kind: %s\n%s", of, text)
		}
		object := kind()
		if err := yaml.UnmarshalStrict([]byte(text), object); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
		found[of.Kind] = object
	}
	return found
}

// everything sets every value, and every key of the configuration.
func everything() string {
	return "config:\n" + regexp.MustCompile("(?m)^").ReplaceAllString(config.Example, "  ") + `
image: {repository: registry.example.com/replypath, tag: 1.2.3, pullPolicy: Always}
imagePullSecrets: [{name: registry}]
privileged: true
serviceMonitor: {enabled: true, labels: {team: network}, endpoint: {interval: 30s}}
updateStrategy: {type: OnDelete}
resources: {limits: {memory: 1Gi}}
priorityClassName: ""
nodeSelector: {pool: edge}
tolerations: []
affinity: {nodeAffinity: {}}
podAnnotations: {a: b}
podLabels: {c: d}
`
}

// open has metrics served where Prometheus reaches them.
const open = "\nconfig: {metrics: {listen: ':9945'}}\n"

var variants = map[string]string{
	"default":       "",
	"everything":    strings.Replace(everything(), "127.0.0.1:9945", "[2001:db8::1]:9945", 1),
	"detach":        "detach: true",
	"secret":        "webConfigSecret: web",
	"no metrics":    "config: {metrics: {listen: ''}}",
	"monitored":     "serviceMonitor: {enabled: true}" + open,
	"by TLS":        "webConfigSecret: web\nserviceMonitor: {enabled: true, endpoint: {scheme: https}}" + open,
	"a large table": "config: {flow_table: {max_entries: 16777216}}",
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestLint is `helm lint`. That a chart has no picture is what it remarks on every one.
func TestLint(t *testing.T) {
	for name, values := range variants {
		t.Run(name, func(t *testing.T) {
			linted := lint.RunAll(chartDir, valuesOf(t, values), release.Namespace)
			for _, message := range linted.Messages {
				if message.Severity > support.InfoSev {
					t.Error(message)
				}
			}
		})
	}
}

// TestObjects is `helm template`: the API server takes all objects, and the program its configuration.
func TestObjects(t *testing.T) {
	for name, values := range variants {
		t.Run(name, func(t *testing.T) {
			o := objects(t, values)
			o.configuration(t)
			_, monitored := o["ServiceMonitor"]
			if wanted := strings.Contains(values, "serviceMonitor"); monitored != wanted {
				t.Errorf("a ServiceMonitor: %t, not %t", monitored, wanted)
			}
		})
	}
}

// TestPage: the chart takes the values that the page sets, and the nodes the configuration. In a cluster
// `make test-kubernetes` runs all commands of the page.
func TestPage(t *testing.T) {
	page := read(t, "../../docs/guide/kubernetes.md")
	values := make(map[string]any)
	for _, set := range regexp.MustCompile(`--set (\S+)`).FindAllSubmatch(page, -1) {
		if err := strvals.ParseInto(string(set[1]), values); err != nil {
			t.Fatal(err)
		}
		encoded, err := yaml.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		objects(t, string(encoded)).configuration(t)
	}
	if len(values) == 0 {
		t.Error("the page sets nothing")
	}
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(page, -1) {
		objects(t, string(block[1])).configuration(t)
	}
}

// TestPodPage: what the page on pods with several interfaces adds to a pod is decoded as strictly, and has the rights of
// the service. A test of test/scenario runs its container.
func TestPodPage(t *testing.T) {
	page := read(t, "../../docs/guide/recipes/multi-nic-pods.md")
	shown := regexp.MustCompile("(?s)```yaml\n(# pod.yaml:.*?)```").FindSubmatch(page)
	if shown == nil {
		t.Fatal("the page shows no pod.yaml")
	}
	var pod core.Pod
	if err := yaml.UnmarshalStrict(shown[1], &pod); err != nil {
		t.Fatal(err)
	}
	c := pod.Spec.InitContainers[0]
	chart := objects(t, "").container().SecurityContext
	if got := c.SecurityContext; !reflect.DeepEqual(got.Capabilities, chart.Capabilities) {
		t.Errorf("its capabilities are %+v, the chart's %+v", got.Capabilities, chart.Capabilities)
	}
	for _, mount := range c.VolumeMounts {
		if !slices.ContainsFunc(pod.Spec.Volumes, func(v core.Volume) bool { return v.Name == mount.Name }) {
			t.Errorf("it mounts %s, which is no volume of it", mount.Name)
		}
	}
}

// text is a configuration without where its file says what.
func text(t *testing.T, c *config.Config) string {
	t.Helper()
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

// TestEveryKey sets every key of the configuration by values, and has the nodes get the same.
func TestEveryKey(t *testing.T) {
	want, err := config.Parse("example", []byte(strings.Replace(config.Example, "127.0.0.1:9945", "[2001:db8::1]:9945", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got := text(t, objects(t, variants["everything"]).configuration(t)); got != text(t, want) {
		t.Errorf("the nodes get\n%s, not\n%s", got, text(t, want))
	}
	if got := objects(t, "").configuration(t); text(t, got) != text(t, config.Default()) {
		t.Errorf("without values the nodes get\n%s", text(t, got))
	}
	if got := objects(t, variants["a large table"]).configuration(t).MaxEntries; got != config.MaxEntries {
		t.Errorf("max_entries is %d", got)
	}
	if got := objects(t, variants["secret"]).configuration(t).Metrics; got.WebConfigFile != "/etc/replypath-web/web.yaml" {
		t.Errorf("metrics with a secret: %+v", got)
	}
}

// schema is as much of a JSON schema as is looked at.
type schema struct {
	Properties map[string]*schema
	Items      *schema
}

// keys lists the properties as the configuration's own messages do.
func (s *schema) keys(prefix string, to map[string][]string) {
	for name, property := range s.Properties {
		to[prefix] = append(to[prefix], name)
		property.keys(prefix+name+".", to)
		if property.Items != nil {
			property.Items.keys(prefix+name+"[].", to)
		}
	}
	slices.Sort(to[prefix])
}

// wrong are configurations with an unknown key, which Parse answers by those that it knows.
var wrong = map[string]string{
	"":              "no-such-key: 1",
	"interfaces[].": "interfaces: [{no-such-key: 1}]",
	"exclude[].":    "exclude: [{no-such-key: 1}]",
	"flow_table.":   "flow_table: {no-such-key: 1}",
	"metrics.":      "metrics: {no-such-key: 1}",
	"log.":          "log: {no-such-key: 1}",
}

// TestSchema: values.schema.json knows the keys of the configuration, and no others: an unknown one is refused before
// it gets to a node.
func TestSchema(t *testing.T) {
	source := read(t, chartDir+"/values.schema.json")
	var values schema
	if err := json.Unmarshal(source, &values); err != nil {
		t.Fatal(err)
	}
	keys := make(map[string][]string)
	values.Properties["config"].keys("", keys)
	for prefix, file := range wrong {
		_, err := config.Parse("", []byte(file))
		message, _, _ := strings.Cut(err.Error(), "\n")
		_, allowed, _ := strings.Cut(message, "allowed here: ")
		known := slices.Sorted(slices.Values(strings.Split(allowed, ", ")))
		if !slices.Equal(known, keys[prefix]) {
			t.Errorf("%q: the schema has %q, the configuration %q", prefix, keys[prefix], known)
		}
		if _, err := render(valuesOf(t, "config: {"+file+"}")); err == nil {
			t.Errorf("%s is not refused", file)
		}
	}
	if len(keys) != len(wrong) {
		t.Errorf("the schema has keys below %d, the test knows %d", len(keys), len(wrong))
	}
}

// TestRights: a pod has what the service has, and neither ends the datapath nor meets another pod.
func TestRights(t *testing.T) {
	unit := read(t, "../../packaging/replypath.service")
	granted := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindSubmatch(unit)
	want := strings.Fields(strings.ReplaceAll(string(granted[1]), "CAP_", ""))
	o := objects(t, "")
	spec, container := o.daemonSet().Spec.Template.Spec, o.container()
	var added []string
	for _, capability := range container.SecurityContext.Capabilities.Add {
		added = append(added, string(capability))
	}
	slices.Sort(want)
	dropped := container.SecurityContext.Capabilities.Drop
	if !slices.Equal(added, want) || len(dropped) != 1 || dropped[0] != "ALL" {
		t.Errorf("capabilities: %v added, %v dropped, want %v", added, dropped, want)
	}
	if !spec.HostNetwork || container.Lifecycle != nil || *spec.AutomountServiceAccountToken {
		t.Errorf("host network %t, lifecycle %v", spec.HostNetwork, container.Lifecycle)
	}
	update := o.daemonSet().Spec.UpdateStrategy.RollingUpdate
	if update.MaxSurge.IntValue() != 0 || update.MaxUnavailable.IntValue() != 1 {
		t.Errorf("updates: %+v", update)
	}
	mounted := make(map[string]string)
	for _, volume := range spec.Volumes {
		for _, mount := range container.VolumeMounts {
			if mount.Name == volume.Name && volume.HostPath != nil {
				mounted[volume.HostPath.Path] = mount.MountPath
			}
		}
	}
	for _, path := range []string{"/sys/fs/bpf", "/sys/fs/cgroup"} {
		if mounted[path] != path {
			t.Errorf("%s of the node is mounted at %q", path, mounted[path])
		}
	}
}

// TestProbes asks where metrics are served, or not at all.
func TestProbes(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:9945":       "127.0.0.1 9945",
		":9100":                "127.0.0.1 9100",
		"0.0.0.0:9945":         "127.0.0.1 9945",
		"[::]:9945":            "127.0.0.1 9945",
		"10.3.0.100:9945":      "10.3.0.100 9945",
		"[2001:db8::100]:9945": "2001:db8::100 9945",
	} {
		c := objects(t, "config: {metrics: {listen: '"+listen+"'}}").container()
		ready, live := c.ReadinessProbe.HTTPGet, c.LivenessProbe.HTTPGet
		if got := ready.Host + " " + ready.Port.String(); got != want || ready.Path != "/healthz" || live.Path != "/" {
			t.Errorf("%s is asked at %s: %+v %+v", listen, got, ready, live)
		}
	}
	if c := objects(t, variants["no metrics"]).container(); c.ReadinessProbe != nil || c.LivenessProbe != nil || len(c.Ports) > 0 {
		t.Errorf("without metrics: %+v", c)
	}
	if c := objects(t, variants["secret"]).container(); c.ReadinessProbe.TCPSocket == nil {
		t.Errorf("with TLS: %+v", c.ReadinessProbe)
	}
}

// TestMonitorNeedsAnAddress: who would have Prometheus scrape loopback is told.
func TestMonitorNeedsAnAddress(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:9945", "localhost:9945", "[::1]:9945", ""} {
		_, err := render(valuesOf(t, "serviceMonitor: {enabled: true}\nconfig: {metrics: {listen: '"+listen+"'}}"))
		if err == nil || !strings.Contains(err.Error(), "an address that Prometheus reaches") {
			t.Errorf("%q: %v", listen, err)
		}
	}
}

// TestDetach: the same pod takes the datapath away before it pauses.
func TestDetach(t *testing.T) {
	spec := objects(t, variants["detach"]).daemonSet().Spec.Template.Spec
	usual := objects(t, "").daemonSet().Spec.Template.Spec
	first := spec.InitContainers[0]
	if !slices.Equal(first.Args, []string{"detach"}) || len(first.VolumeMounts) != len(usual.Containers[0].VolumeMounts) {
		t.Errorf("%+v", first)
	}
	if c := spec.Containers[0]; len(spec.Containers) != 1 || c.Args != nil || c.SecurityContext != nil {
		t.Errorf("%+v", c)
	}
}

// TestVersion: the chart is of the version that the changelog begins with.
func TestVersion(t *testing.T) {
	changelog := read(t, "../../CHANGELOG.md")
	version := string(regexp.MustCompile(`(?m)^## \[([0-9][0-9.]*)\]`).FindSubmatch(changelog)[1])
	chart := read(t, chartDir+"/Chart.yaml")
	for _, key := range []string{"version", "appVersion"} {
		if line := key + ": " + version + "\n"; !strings.Contains(string(chart), "\n"+line) {
			t.Errorf("Chart.yaml does not say %q", line)
		}
	}
}
