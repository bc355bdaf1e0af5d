{{- define "model-gateway.labels" -}}
{{ include "model-gateway.podLabels" . }}
app.kubernetes.io/part-of: carapace
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* LiteLLM's own label, which the agents' network policy selects, and an honest one beside it. */}}
{{- define "model-gateway.podLabels" -}}
app.kubernetes.io/name: litellm
carapace.dev/stand-in: "true"
{{- end }}
