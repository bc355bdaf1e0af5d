{{/* A SandboxTemplate. Takes {root, name, overrides}; overrides are a pool's own scheduling, if any.

     The pod's labels and everything else below `podTemplate` are hashed by agent-sandbox: a difference
     makes every unclaimed VM stale. So no chart version, no checksum and no date belongs in here. */}}
{{- define "agents.sandboxTemplate" -}}
{{- $values := .root.Values -}}
apiVersion: extensions.agents.x-k8s.io/v1beta1
kind: SandboxTemplate
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "agents.labels" .root | nindent 4 }}
spec:
  networkPolicyManagement: Unmanaged
  # A claim brings nothing of its own into the VM: either would also force a cold start.
  envVarsInjectionPolicy: Disallowed
  volumeClaimTemplatesPolicy: Disallowed
  podTemplate:
    metadata:
      labels:
        {{- include "agents.podLabels" .root | nindent 8 }}
    spec:
      runtimeClassName: {{ $values.runtimeClass.name }}
      automountServiceAccountToken: false
      # Or every Service of the namespace would show up in the agent's environment.
      enableServiceLinks: false
      # OpenClaw makes its files 0600 whatever the group, so that both containers need one uid. What
      # keeps agentd's secrets from the agent is the mounts below and the separate PID namespaces.
      shareProcessNamespace: false
      terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 1000
        runAsGroup: 1000
        fsGroup: 1000
        seccompProfile:
          type: RuntimeDefault
      {{- with .overrides.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .overrides.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: agentd
          image: {{ include "agents.image" (dict "name" "agentd" "image" $values.images.agentd "version" .root.Chart.AppVersion) }}
          imagePullPolicy: {{ $values.images.agentd.pullPolicy }}
          env:
            # The pod has the name of its Sandbox, warm or cold: agent-sandbox creates it so, and a
            # claim takes over the Sandbox without renaming it.
            - name: AGENTD_SANDBOX
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
            - name: AGENTD_LISTEN
              value: 0.0.0.0:18790
            - name: AGENTD_MODEL_PROXY_LISTEN
              value: 127.0.0.1:18791
            - name: AGENTD_OPENCLAW_URL
              value: http://127.0.0.1:18789
            - name: AGENTD_MODEL_GATEWAY_URL
              value: {{ $values.modelGateway.url }}
            - name: AGENTD_MODEL
              value: {{ $values.agentd.model }}
            - name: AGENTD_JWKS_PATH
              value: /etc/agentd/jwks.json
            - name: AGENTD_PRIVATE_DIR
              value: /var/lib/agentd
            - name: AGENTD_WORKSPACE_DIR
              value: /workspace
            - name: AGENTD_CONFIG_DIR
              value: /config
          ports:
            - name: agentd
              containerPort: 18790
              protocol: TCP
          # agentd answers for the agent, which listens on loopback only. Ready means booted and warmed,
          # so a warm pool holds nothing that still has to start. No liveness probe: a restart would
          # cut off the running turn, and the readiness probe shows an agentd that does not answer.
          startupProbe:
            httpGet:
              path: /readyz
              port: agentd
            periodSeconds: 1
            timeoutSeconds: 2
            failureThreshold: 120
          readinessProbe:
            httpGet:
              path: /readyz
              port: agentd
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 3
          resources:
            {{- toYaml $values.agentd.resources | nindent 12 }}
          securityContext:
            {{- include "agents.containerSecurityContext" .root | nindent 12 }}
          volumeMounts:
            - name: state
              mountPath: /state
            - name: workspace
              mountPath: /workspace
            - name: config
              mountPath: /config
            - name: agentd-private
              mountPath: /var/lib/agentd
            # The whole volume, not a subPath: the kubelet does not refresh a subPath when keys rotate.
            - name: agentd-jwks
              mountPath: /etc/agentd
              readOnly: true
            - name: agentd-tmp
              mountPath: /tmp
        - name: agent
          image: {{ include "agents.image" (dict "name" "agent" "image" $values.images.agent "version" .root.Chart.AppVersion) }}
          imagePullPolicy: {{ $values.images.agent.pullPolicy }}
          {{- with $values.agent.command }}
          command:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with $values.agent.args }}
          args:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          env:
            - name: HOME
              value: /state/home
            - name: OPENCLAW_STATE_DIR
              value: /state
            - name: OPENCLAW_CONFIG_PATH
              value: /config/openclaw.json
            # OpenClaw in a VM that is thrown away: no updates of itself, no discovery, no channels or
            # schedules of its own, no respawn that the kubelet would not see.
            {{- range list "OPENCLAW_DISABLE_BONJOUR" "OPENCLAW_NO_AUTO_UPDATE" "OPENCLAW_NO_RESPAWN" "OPENCLAW_OFFLINE" "OPENCLAW_SKIP_CANVAS_HOST" "OPENCLAW_SKIP_CHANNELS" "OPENCLAW_SKIP_CRON" "OPENCLAW_SKIP_GMAIL_WATCHER" }}
            - name: {{ . }}
              value: "1"
            {{- end }}
            - name: OPENCLAW_EXEC_SHELL_SNAPSHOT
              value: "0"
          resources:
            {{- toYaml $values.agent.resources | nindent 12 }}
          securityContext:
            {{- include "agents.containerSecurityContext" .root | nindent 12 }}
          volumeMounts:
            - name: state
              mountPath: /state
            - name: workspace
              mountPath: /workspace
            - name: config
              mountPath: /config
              readOnly: true
            - name: agent-tmp
              mountPath: /tmp
      volumes:
        - name: state
          emptyDir:
            sizeLimit: {{ $values.storage.state }}
        - name: workspace
          emptyDir:
            sizeLimit: {{ $values.storage.workspace }}
        - name: config
          emptyDir:
            sizeLimit: 1Mi
        # The user's key lives here: never on a disk, and gone with the pod, but not with a restart of
        # agentd, which would otherwise forget whom this VM belongs to.
        - name: agentd-private
          emptyDir:
            medium: Memory
            sizeLimit: 1Mi
        - name: agentd-jwks
          configMap:
            name: agentd-jwks
        - name: agentd-tmp
          emptyDir:
            sizeLimit: {{ $values.storage.tmp }}
        - name: agent-tmp
          emptyDir:
            sizeLimit: {{ $values.storage.tmp }}
{{- end }}
