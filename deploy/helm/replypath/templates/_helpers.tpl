{{- define "replypath.labels" -}}
app.kubernetes.io/name: replypath
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The configuration, with where the web configuration is mounted. */}}
{{- define "replypath.config" -}}
{{- $config := deepCopy .Values.config }}
{{- if .Values.webConfigSecret }}
{{- $_ := set $config "metrics" (merge (dict "web_config_file" "/etc/replypath-web/web.yaml") ($config.metrics | default dict)) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{- /* Where metrics are served: host:port, or nothing. */}}
{{- define "replypath.listen" -}}
{{- $metrics := .Values.config.metrics | default dict }}
{{- hasKey $metrics "listen" | ternary $metrics.listen "127.0.0.1:9945" }}
{{- end }}

{{- define "replypath.port" -}}
{{- include "replypath.listen" . | regexFind "[0-9]+$" }}
{{- end }}

{{- /* The host of that as the kubelet reaches it, which is in the same network. */}}
{{- define "replypath.host" -}}
{{- $host := include "replypath.listen" . | replace (print ":" (include "replypath.port" .)) "" | trimAll "[]" }}
{{- has $host (list "" "0.0.0.0" "::") | ternary "127.0.0.1" $host }}
{{- end }}

{{- /* One of the probes. With TLS or passwords all that is asked is whether somebody listens. */}}
{{- define "replypath.probe" -}}
{{- $context := index . 0 -}}
{{- $path := index . 1 -}}
{{- if ($context.Values.config.metrics | default dict).web_config_file | or $context.Values.webConfigSecret -}}
tcpSocket:
{{- else -}}
httpGet:
  path: {{ $path }}
{{- end }}
  host: {{ include "replypath.host" $context | quote }}
  port: {{ include "replypath.port" $context }}
timeoutSeconds: 5
{{- end }}

{{- /* What the container may do, and what it sees of the node. */}}
{{- define "replypath.rights" -}}
securityContext:
  runAsUser: 0
  readOnlyRootFilesystem: true
  {{- if .Values.privileged }}
  privileged: true
  {{- else }}
  allowPrivilegeEscalation: false
  # The three of replypath.service: docs/guide/rights.md says what each is for.
  capabilities:
    drop: [ALL]
    add: [BPF, NET_ADMIN, PERFMON]
  seccompProfile:
    type: RuntimeDefault # it permits bpf(2) with CAP_BPF
  # The runtime's own profile forbids to write below /sys/fs/bpf.
  appArmorProfile:
    type: Unconfined
  seLinuxOptions:
    type: spc_t
  {{- end }}
volumeMounts:
  - {name: config, mountPath: /etc/replypath, readOnly: true}
  {{- if .Values.webConfigSecret }}
  - {name: web, mountPath: /etc/replypath-web, readOnly: true}
  {{- end }}
  - {name: pins, mountPath: /sys/fs/bpf}
  # The node's, to repair the source of UDP answers in all of it.
  - {name: cgroup, mountPath: /sys/fs/cgroup, readOnly: true}
{{- end }}
