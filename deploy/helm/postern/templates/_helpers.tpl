{{/* Objects are called postern whatever the release is called: two agents on one node would fight over the same pods. */}}
{{- define "postern.selector" -}}
app.kubernetes.io/name: postern
{{- end }}

{{- define "postern.labels" -}}
{{ include "postern.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "postern.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Where probes knock: with metrics on the node's address, which is the pod's own; without, on its loopback device. */}}
{{- define "postern.httpGet" -}}
{{- if not .Values.metrics.enabled }}
host: 127.0.0.1
{{- end }}
port: {{ .Values.metrics.port }}
{{- end }}
