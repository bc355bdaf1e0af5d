{{- define "slack.labels" -}}
{{ include "slack.podLabels" . }}
app.kubernetes.io/part-of: carapace
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "slack.podLabels" -}}
app.kubernetes.io/name: slack
carapace.dev/stand-in: "true"
{{- end }}
