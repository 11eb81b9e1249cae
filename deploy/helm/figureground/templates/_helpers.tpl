{{- define "figureground.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "figureground.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "figureground.labels" -}}
{{ include "figureground.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "figureground.image" -}}
{{- $tag := .Values.gpu.enabled | ternary (printf "%s-cuda" .Chart.AppVersion) .Chart.AppVersion -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default $tag }}
{{- end -}}

{{- define "figureground.secret" -}}
{{- if .Values.secret.existing -}}
{{- .Values.secret.existing -}}
{{- else -}}
{{- include "figureground.name" . -}}
{{- end -}}
{{- end -}}

{{- define "figureground.hasJournal" -}}
{{- if or .Values.secret.existing .Values.secret.journalUrl -}}yes{{- end -}}
{{- end -}}

{{- define "figureground.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "figureground.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "figureground.environment" -}}
{{- range $name, $value := .Values.settings }}
- {name: {{ printf "FIGUREGROUND_%s" $name }}, value: {{ $value | quote }}}
{{- end }}
- {name: FIGUREGROUND_DRAIN_SECONDS, value: {{ .Values.drain.drainSeconds | quote }}}
- {name: FIGUREGROUND_DEADLINE_SECONDS, value: {{ .Values.drain.deadlineSeconds | quote }}}
- name: FIGUREGROUND_API_KEYS
  valueFrom: {secretKeyRef: {name: {{ include "figureground.secret" . }}, key: api-keys, optional: true}}
{{- if include "figureground.hasJournal" . }}
- name: FIGUREGROUND_JOURNAL_URL
  valueFrom: {secretKeyRef: {name: {{ include "figureground.secret" . }}, key: journal-url, optional: true}}
{{- else }}
- {name: FIGUREGROUND_JOURNAL_URL, value: ""}
{{- end }}
{{- end -}}
