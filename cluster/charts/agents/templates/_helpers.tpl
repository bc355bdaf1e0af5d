{{/* Labels of the chart's own objects. Never of the pod template: see sandbox-template.yaml. */}}
{{- define "agents.labels" -}}
app.kubernetes.io/part-of: carapace
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What marks a pod as an agent's. The network policies select it, so that it must be on warm,
     unclaimed pods too: it comes from the template, not from the claim. */}}
{{- define "agents.podLabels" -}}
app.kubernetes.io/name: agent
carapace.dev/role: agent
{{- end }}

{{/* An image reference; a digest wins over a tag. Takes {name, image, version}. */}}
{{- define "agents.image" -}}
{{- $repository := required (printf "images.%s.repository is empty: set it to the registry and repository that holds the image, for example 123456789012.dkr.ecr.eu-west-1.amazonaws.com/carapace/%s" .name .name) .image.repository -}}
{{- if .image.digest -}}
{{ $repository }}@{{ .image.digest }}
{{- else -}}
{{ $repository }}:{{ .image.tag | default .version }}
{{- end -}}
{{- end }}

{{/* What every container of an agent's pod has in common. */}}
{{- define "agents.containerSecurityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
{{- end }}

{{/* Rules that a JSON Schema cannot state, or states in words that help nobody. */}}
{{- define "agents.check" -}}
{{- range list "10.0.0.0/8" "172.16.0.0/12" "192.168.0.0/16" "169.254.0.0/16" "100.64.0.0/10" -}}
{{- if and $.Values.egress.internet.enabled (not (has . $.Values.egress.internet.exceptCidrs)) -}}
{{- fail (printf "egress.internet.exceptCidrs must contain %s: without it the agents' code could reach private networks or the instance metadata service" .) -}}
{{- end -}}
{{- end -}}
{{- range .Values.controlPlane.cidrs -}}
{{- if hasSuffix "/0" . -}}
{{- fail (printf "controlPlane.cidrs contains %s, which is everybody: name the subnets of the functions" .) -}}
{{- end -}}
{{- end -}}
{{- range $function, $group := .Values.controlPlane.groups -}}
{{- if hasPrefix "system:" $group -}}
{{- fail (printf "controlPlane.groups.%s is %q: groups under system: belong to Kubernetes, choose one of your own" $function $group) -}}
{{- end -}}
{{- end -}}
{{- $jwks := .Values.controlPlane.jwks | fromJson -}}
{{- if or (hasKey $jwks "Error") (not (kindIs "slice" (get $jwks "keys"))) -}}
{{- fail "controlPlane.jwks is no JSON Web Key Set: expected a JSON object with an array \"keys\", for example {\"keys\":[]}" -}}
{{- end -}}
{{- range get $jwks "keys" -}}
{{- if or (hasKey . "d") (hasKey . "k") -}}
{{- fail "controlPlane.jwks contains a private key (a member \"d\" or \"k\"): publish the public part only" -}}
{{- end -}}
{{- end -}}
{{- $seen := dict -}}
{{- range .Values.pools -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "pools: the name %q occurs twice" .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- end -}}
{{- end }}
