{{- define "model-gateway.labels" -}}
{{ include "model-gateway.podLabels" . }}
app.kubernetes.io/part-of: carapace
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What the agents' network policy selects, too. */}}
{{- define "model-gateway.podLabels" -}}
app.kubernetes.io/name: litellm
{{- end }}

{{- define "model-gateway.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "v%s" .Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{/* files/config.yaml, with the guardrail in each model if there is one. Without one it stays as it is,
     comments and all. */}}
{{- define "model-gateway.config" -}}
{{- $file := .Files.Get "files/config.yaml" -}}
{{- if .Values.bedrock.guardrail.id -}}
{{- $guardrail := dict "guardrailIdentifier" .Values.bedrock.guardrail.id "guardrailVersion" .Values.bedrock.guardrail.version "trace" "disabled" -}}
{{- $config := fromYaml $file -}}
{{- range $config.model_list -}}
{{- $_ := set .litellm_params "guardrailConfig" $guardrail -}}
{{- end -}}
{{- toYaml $config -}}
{{- else -}}
{{- $file -}}
{{- end -}}
{{- end }}

{{/* Rules that a JSON Schema cannot state, or states in words that help nobody. */}}
{{- define "model-gateway.check" -}}
{{- $_ := required "bedrock.region is empty: set it to the region whose Bedrock is called, for example eu-central-1" .Values.bedrock.region -}}
{{- $_ := required "bedrock.model is empty: set it to the id of a model or an inference profile, for example eu.anthropic.claude-sonnet-4-5-20250929-v1:0" .Values.bedrock.model -}}
{{- if and .Values.bedrock.guardrail.id (not .Values.bedrock.guardrail.version) -}}
{{- fail "bedrock.guardrail.version is empty: a guardrail is used at a version, for example \"1\"" -}}
{{- end -}}
{{- if and .Values.bedrock.guardrail.version (not .Values.bedrock.guardrail.id) -}}
{{- fail "bedrock.guardrail.id is empty and bedrock.guardrail.version is not: set both, or neither for no guardrail" -}}
{{- end -}}
{{- range concat .Values.controlPlane.cidrs .Values.egress.database.cidrs -}}
{{- if hasSuffix "/0" . -}}
{{- fail (printf "controlPlane.cidrs or egress.database.cidrs contains %s, which is everybody: name the subnets" .) -}}
{{- end -}}
{{- end -}}
{{- end }}
