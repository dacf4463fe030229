{{- define "keyvault-csi.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "keyvault-csi.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "keyvault-csi.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "keyvault-csi.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "keyvault-csi.selectorLabels" -}}
app.kubernetes.io/name: {{ include "keyvault-csi.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keyvault-csi.labels" -}}
{{ include "keyvault-csi.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The controller's Pods must not match the selector of the DaemonSet's. */ -}}
{{- define "keyvault-csi.controllerSelector" -}}
app.kubernetes.io/name: {{ include "keyvault-csi.name" . | trunc 52 | trimSuffix "-" }}-controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keyvault-csi.controllerLabels" -}}
{{ merge (include "keyvault-csi.controllerSelector" . | fromYaml) (include "keyvault-csi.labels" . | fromYaml) | toYaml }}
{{- end -}}

{{- define "keyvault-csi.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "keyvault-csi.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "keyvault-csi.image" -}}
{{- .repository -}}
{{- if .digest -}}@{{ .digest }}{{- else -}}:{{ default .appVersion .tag }}{{- end -}}
{{- end -}}

{{- /* metricsPort is the port of linux.metricsAddr; metricsHost its host, empty for every address. */ -}}
{{- define "keyvault-csi.metricsPort" -}}
{{- regexFind "[0-9]+$" .Values.linux.metricsAddr -}}
{{- end -}}

{{- define "keyvault-csi.metricsHost" -}}
{{- regexReplaceAll ":[0-9]+$" .Values.linux.metricsAddr "" -}}
{{- end -}}

{{- /* probe is an HTTP probe: (list $ PATH PERIOD FAILURES). */ -}}
{{- define "keyvault-csi.probe" -}}
{{- $root := index . 0 -}}
httpGet:
  path: {{ index . 1 }}
  port: metrics
  {{- with include "keyvault-csi.metricsHost" $root }}
  host: {{ . | quote }}
  {{- end }}
periodSeconds: {{ index . 2 }}
timeoutSeconds: 5
initialDelaySeconds: 1
failureThreshold: {{ index . 3 }}
{{- end -}}

{{- /* cloudDirectory is where the container finds the files of custom clouds; empty where there are none. */ -}}
{{- define "keyvault-csi.cloudDirectory" -}}
{{- with .Values.cloudConfig -}}
{{- .directory | default .hostPath | default (ternary "/etc/kubernetes" "" (ne .configMap "")) -}}
{{- end -}}
{{- end -}}

{{- /* nodeIdentityArgs are the arguments for nodeIdentity. */ -}}
{{- define "keyvault-csi.nodeIdentityArgs" -}}
- --node-identity={{ .Values.nodeIdentity.allowed }}
{{- with .Values.nodeIdentity.namespaces }}
{{- if kindIs "map" . }}
- {{ printf "--node-identity-namespace-selector=%s" (include "keyvault-csi.selector" .) | quote }}
{{- else }}
- --node-identity-namespaces={{ join "," . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "keyvault-csi.controllerName" -}}
{{- include "keyvault-csi.fullname" . | trunc 52 | trimSuffix "-" }}-controller
{{- end -}}

{{- define "keyvault-csi.emulatorName" -}}
{{- include "keyvault-csi.fullname" . | trunc 54 | trimSuffix "-" }}-emulator
{{- end -}}

{{- /* proxyEnv is for (list $ ENV), where ENV has the container's own variables, which are not changed: HTTPS_PROXY, HTTP_PROXY and, where
a proxy is set here or in ENV, NO_PROXY: client-go honours them too, and the API server is not behind a proxy. */ -}}
{{- define "keyvault-csi.proxyEnv" -}}
{{- $own := dict -}}
{{- range index . 1 }}{{ $_ := set $own .name true }}{{ end -}}
{{- with index . 0 -}}
{{- $proxy := dict "HTTPS_PROXY" .Values.proxy.https "HTTP_PROXY" .Values.proxy.http -}}
{{- $none := list "$(KUBERNETES_SERVICE_HOST)" "kubernetes.default" ".svc" ".cluster.local" -}}
{{- with .Values.otlpEndpoint }}{{ $none = append $none (urlParse . | dig "hostname" "") }}{{ end -}}
{{- if .Values.emulator.enabled -}}
{{- $url := printf "http://%s:8200" (.Values.emulator.clusterIP | default (printf "%s.%s.svc" (include "keyvault-csi.emulatorName" .) .Release.Namespace)) -}}
{{- $proxy = dict "HTTPS_PROXY" $url "HTTP_PROXY" $url -}}
{{- else -}}
{{- $none = append $none "169.254.169.254" -}}
{{- end -}}
{{- range $name, $url := $proxy -}}
{{- if and $url (not (hasKey $own $name)) }}
- name: {{ $name }}
  value: {{ $url | quote }}
{{- $_ := set $own $name true }}
{{- end }}
{{- end }}
{{- if and (or (hasKey $own "HTTPS_PROXY") (hasKey $own "HTTP_PROXY")) (not (hasKey $own "NO_PROXY")) }}
- name: NO_PROXY
  value: {{ concat $none .Values.proxy.none | join "," | quote }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /* nodesSync and controllerSync say who writes the Secrets of a class's secretObjects: "true", or empty. */ -}}
{{- define "keyvault-csi.nodesSync" -}}
{{- if and .Values.syncSecret.enabled (eq .Values.syncSecret.by "nodes") }}true{{ end -}}
{{- end -}}

{{- define "keyvault-csi.controllerSync" -}}
{{- if and .Values.syncSecret.enabled (eq .Values.syncSecret.by "controller") }}true{{ end -}}
{{- end -}}

{{- /* noSecretNamespaces are those in which no Secret is written unless syncSecret.namespaces names them. */ -}}
{{- define "keyvault-csi.noSecretNamespaces" -}}
{{- list "kube-system" "kube-public" "kube-node-lease" .Release.Namespace | uniq | join "," -}}
{{- end -}}

{{- /* secretNamespaces is a CEL expression: whether Secrets may be written in the namespace of a request. */ -}}
{{- define "keyvault-csi.secretNamespaces" -}}
{{- $value := .Values.syncSecret.namespaces -}}
{{- if not (and $value (kindIs "slice" $value)) -}}
!({{ include "keyvault-csi.inNamespaces" (splitList "," (include "keyvault-csi.noSecretNamespaces" .)) }})
{{- end -}}
{{- if $value }}{{ if kindIs "map" $value }} && {{ end }}{{ include "keyvault-csi.inNamespaces" $value }}{{ end -}}
{{- end -}}

{{- /* inNamespaces is a CEL expression: whether the namespace of a request is in a list, or selected by labels (variables.labels). */ -}}
{{- define "keyvault-csi.inNamespaces" -}}
{{- if kindIs "map" . -}}
{{- include "keyvault-csi.selectorExpression" . -}}
{{- else -}}
request.namespace in [{{ range $i, $name := . }}{{ if $i }}, {{ end }}'{{ $name }}'{{ end }}]
{{- end -}}
{{- end -}}

{{- /* selectorExpression is a CEL expression: whether a label selector matches variables.labels. */ -}}
{{- define "keyvault-csi.selectorExpression" -}}
{{- $all := list -}}
{{- range $key, $label := .matchLabels -}}
{{- $all = append $all (printf "variables.labels[?'%s'].orValue(' ') == '%s'" $key $label) -}}
{{- end -}}
{{- range .matchExpressions -}}
{{- $values := list -}}
{{- range .values }}{{ $values = append $values (printf "'%s'" .) }}{{ end -}}
{{- $in := printf "variables.labels[?'%s'].orValue(' ') in [%s]" .key (join ", " $values) -}}
{{- $all = append $all (get (dict "In" $in "NotIn" (printf "!(%s)" $in) "Exists" (printf "'%s' in variables.labels" .key) "DoesNotExist" (printf "!('%s' in variables.labels)" .key)) .operator) -}}
{{- end -}}
{{- join " && " $all -}}
{{- end -}}

{{- /* selector is a label selector as text, as kubectl takes it. */ -}}
{{- define "keyvault-csi.selector" -}}
{{- $all := list -}}
{{- range $key, $label := .matchLabels }}{{ $all = append $all (printf "%s=%s" $key $label) }}{{ end -}}
{{- range .matchExpressions -}}
{{- $values := join "," .values -}}
{{- $all = append $all (get (dict "In" (printf "%s in (%s)" .key $values) "NotIn" (printf "%s notin (%s)" .key $values) "Exists" .key "DoesNotExist" (printf "!%s" .key)) .operator) -}}
{{- end -}}
{{- join "," $all -}}
{{- end -}}
