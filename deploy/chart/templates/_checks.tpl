{{- /* checks fails the installation where values of another chart would do harm in silence. All that is wrong is said at once. */ -}}
{{- define "keyvault-csi.checks" -}}
{{- $wrong := list -}}
{{- range include "keyvault-csi.below" (list "" (index .Values "secrets-store-csi-driver") .Values) | trim | splitList "\n" | compact -}}
{{- $wrong = append $wrong . -}}
{{- end -}}
{{- if eq (dig "enabled" "" (.Values.windows | default dict) | toString) "true" -}}
{{- $wrong = append $wrong "windows.enabled: this driver runs on Linux nodes: leave it out, and keep the old release for Windows nodes (docs/migration.md, Windows nodes)" -}}
{{- end -}}
{{- range $key, $value := .Values.image -}}
{{- if and $value (ne $key "pullPolicy") -}}
{{- $wrong = append $wrong (printf "image.%s: write linux.image.%s" $key $key) -}}
{{- end -}}
{{- end -}}
{{- if and (hasKey .Values.linux "enabled") (ne (toString .Values.linux.enabled) "true") -}}
{{- $wrong = append $wrong "linux.enabled: this chart installs nothing but the driver of Linux nodes: write true, or do not install it" -}}
{{- end -}}
{{- if eq (dig "pspEnabled" "" .Values.rbac | toString) "true" -}}
{{- $wrong = append $wrong "rbac.pspEnabled: Kubernetes has no PodSecurityPolicies since 1.25: leave it out, and label the release's namespace pod-security.kubernetes.io/enforce: privileged" -}}
{{- end -}}
{{- if eq (toString (.Values.enableArcExtension | default "")) "true" -}}
{{- $wrong = append $wrong "enableArcExtension: this chart is not an extension of Azure Arc: leave it out, and write proxy.https and proxy.none for its proxy" -}}
{{- end -}}
{{- if and .Values.cloudConfig.configMap .Values.cloudConfig.hostPath -}}
{{- $wrong = append $wrong "cloudConfig: configMap and hostPath are both set: leave one out" -}}
{{- end -}}
{{- if hasSuffix ".json" .Values.cloudConfig.hostPath -}}
{{- $wrong = append $wrong (printf "cloudConfig.hostPath: %s is a file: write its directory, %s" .Values.cloudConfig.hostPath (dir .Values.cloudConfig.hostPath)) -}}
{{- end -}}
{{- if regexMatch "(^|/)(provider-azure|driver)$" .Values.linux.image.repository -}}
{{- $wrong = append $wrong (printf "linux.image.repository: %s is the image of another driver or provider: leave it out, or name this driver's" .Values.linux.image.repository) -}}
{{- end -}}
{{- if and (include "keyvault-csi.metricsHost" .) (not .Values.linux.hostNetwork) -}}
{{- $wrong = append $wrong (printf "linux.metricsAddr: %s names a host, which kubelet's probes would not reach: write :%s, or set linux.hostNetwork" .Values.linux.metricsAddr (include "keyvault-csi.metricsPort" .)) -}}
{{- end -}}
{{- if and (eq .Values.syncSecret.by "controller") (not .Values.syncSecret.enabled) -}}
{{- $wrong = append $wrong "syncSecret.by: controller has no effect without Secret sync: write syncSecret.enabled=true, or leave it out" -}}
{{- end -}}
{{- if and (include "keyvault-csi.controllerSync" .) (not .Values.controller.enabled) -}}
{{- $wrong = append $wrong "syncSecret.by: controller needs the controller: write controller.enabled=true, or syncSecret.by=nodes" -}}
{{- end -}}
{{- if and (include "keyvault-csi.controllerSync" .) .Values.syncSecret.namespaces -}}
{{- $wrong = append $wrong "syncSecret.namespaces: bounds the nodes, and with syncSecret.by=controller they write no Secrets: write the namespaces in controller.namespaces, which is a list of names, and leave it out" -}}
{{- end -}}
{{- if and (include "keyvault-csi.controllerSync" .) (not (and .Values.policies.enabled .Values.policies.driver)) (not .Values.syncSecret.withoutAdmissionPolicy) -}}
{{- $wrong = append $wrong "syncSecret.by: without the admission policy of the driver, whoever gets a node's token can write status objects in the name of other nodes: leave policies.enabled and policies.driver true, or accept that by name with syncSecret.withoutAdmissionPolicy: true" -}}
{{- end -}}
{{- if and (include "keyvault-csi.nodesSync" .) (not (and .Values.policies.enabled .Values.policies.driver)) (not .Values.syncSecret.withoutAdmissionPolicy) -}}
{{- $wrong = append $wrong "syncSecret.enabled: without the admission policy of the driver, whoever gets its token can become cluster-admin: leave policies.enabled and policies.driver true, or accept that by name with syncSecret.withoutAdmissionPolicy: true" -}}
{{- end -}}
{{- if and (ne .Values.nodeIdentity.allowed "namespaces") .Values.nodeIdentity.namespaces -}}
{{- $wrong = append $wrong (printf "nodeIdentity.namespaces: has no effect with nodeIdentity.allowed=%s: set nodeIdentity.allowed=namespaces, or leave the namespaces out" .Values.nodeIdentity.allowed) -}}
{{- end -}}
{{- if and (eq .Values.nodeIdentity.allowed "namespaces") (not .Values.nodeIdentity.namespaces) -}}
{{- $wrong = append $wrong "nodeIdentity.allowed: is namespaces, and nodeIdentity.namespaces is empty: list them or write a label selector, or set nodeIdentity.allowed=none" -}}
{{- end -}}
{{- with .Values.controller.events -}}
{{- if and .hook.enabled (not (and .hook.issuer .hook.audience .hook.tlsSecret)) -}}
{{- $wrong = append $wrong "controller.events.hook: issuer, audience and tlsSecret are needed: a hook that verifies nothing is not served" -}}
{{- end -}}
{{- if and .tenantID (not .clientID) -}}
{{- $wrong = append $wrong "controller.events.tenantID: is for workload identity, which needs clientID: set it, or leave tenantID out" -}}
{{- end -}}
{{- if and (or .queueURL .hook.enabled) (not $.Values.controller.enabled) -}}
{{- $wrong = append $wrong "controller.events: the controller reads events: set controller.enabled=true" -}}
{{- end -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\n\n  %s\n" (join "\n  " $wrong)) -}}
{{- end -}}
{{- end -}}

{{- /* below lists, a line each, the values below secrets-store-csi-driver that ask for more than the same values of this chart give:
(list PATH VALUES OWN). That is refused: people would believe that they had set it. */ -}}
{{- define "keyvault-csi.below" -}}
{{- $path := index . 0 -}}
{{- $own := index . 2 -}}
{{- range $key, $value := index . 1 -}}
{{- $name := printf "%s%s" $path $key -}}
{{- $mine := get $own $key -}}
{{- $unused := has $name (list "install" "nameOverride" "fullnameOverride" "logLevel" "linux.image.pullPolicy" "livenessProbe" "maxCallRecvMsgSize" "providerHealthCheck" "providerHealthCheckInterval" "filteredWatchSecret"
  "minimumProviderVersions" "grpcSupportedProviders" "linux.registrar" "linux.registrarImage" "linux.livenessProbe" "linux.livenessProbeImage"
  "linux.providersDir" "linux.additionalProvidersDirs" "linux.crds.image" "linux.crds.resources" "linux.crds.podLabels") -}}
{{- $enough := and (kindIs "slice" $value) (kindIs "slice" $mine) -}}
{{- if $enough -}}
{{- range $value }}{{ if not (has . $mine) }}{{ $enough = false }}{{ end }}{{ end -}}
{{- end -}}
{{- if or (kindIs "invalid" $value) (eq (toString $value) "") -}}
{{- else if eq $name "windows" -}}
{{- if eq (dig "enabled" "" $value | toString) "true" }}
secrets-store-csi-driver.windows.enabled: this driver runs on Linux nodes: leave it out, and keep the old release for Windows nodes (docs/migration.md, Windows nodes)
{{- end -}}
{{- else if has $name (list "linux.image.repository" "linux.image.tag" "linux.image.digest") }}
secrets-store-csi-driver.{{ $name }}: this is the image of another driver: leave it out; linux.image is this driver's
{{- else if and (kindIs "map" $value) (kindIs "map" $mine) -}}
{{- include "keyvault-csi.below" (list (printf "%s." $name) $value $mine) -}}
{{- else if or $unused $enough (eq (toJson $value) (toJson $mine)) (and (eq $name "linux.enabled") (eq (toString $value) "true")) (and (eq $name "rbac.pspEnabled") (ne (toString $value) "true")) -}}
{{- else }}
secrets-store-csi-driver.{{ $name }}: there is no chart below this one: write {{ $name }}={{ if kindIs "string" $value }}{{ $value }}{{ else }}{{ toJson $value }}{{ end }}, or leave it out
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* unused lists, a line each, values that are set and have no effect. */ -}}
{{- define "keyvault-csi.unused" -}}
{{- $why := dict
  "livenessProbe" "the driver answers probes itself, on linux.metricsAddr"
  "maxCallRecvMsgSize" "there is no provider process to call"
  "providerHealthCheck" "there is no provider process to check"
  "providerHealthCheckInterval" "there is no provider process to check"
  "filteredWatchSecret" "no Secret is watched"
  "automountServiceAccountToken" "the driver always needs its token"
  "enableArcExtension" "set proxy.https and proxy.none for a proxy"
  "metricsAddr" "set linux.metricsAddr"
  "arcExtension" "set proxy.https and proxy.none for a proxy"
  "minimumProviderVersions" "there is no provider process"
  "grpcSupportedProviders" "there is no provider process"
  "logLevel" "set logVerbosity"
  "image" "set linux.image"
  "secrets-store-csi-driver" "there is no chart below this one; what is written here holds anyway"
  "windows" "this driver runs on Linux nodes" -}}
{{- range $key, $text := $why -}}
{{- if hasKey $.Values $key }}
  {{ $key }}: {{ $text }}
{{- end -}}
{{- end -}}
{{- $linux := dict
  "registrar" "the driver registers itself" "registrarImage" "the driver registers itself"
  "livenessProbe" "the driver answers probes itself" "livenessProbeImage" "the driver answers probes itself"
  "providersDir" "there is no provider process" "additionalProvidersDirs" "there is no provider process"
  "enabled" "this chart is for Linux nodes"
  "customUserAgent" "requests are always keyvault-csi's" "resources" "set linux.driver.resources"
  "healthzPort" "probes ask linux.metricsAddr" "healthzPath" "probes ask linux.metricsAddr" "healthzTimeout" "probes ask linux.metricsAddr"
  "privileged" "the container is always privileged: mount propagation needs it" -}}
{{- range $key, $text := $linux -}}
{{- if hasKey $.Values.linux $key }}
  linux.{{ $key }}: {{ $text }}
{{- end -}}
{{- end -}}
{{- if hasKey .Values.rbac "pspEnabled" }}
  rbac.pspEnabled: Kubernetes has no PodSecurityPolicies since 1.25
{{- end -}}
{{- range $key := list "image" "resources" "podLabels" -}}
{{- if hasKey $.Values.linux.crds $key }}
  linux.crds.{{ $key }}: no job installs the CustomResourceDefinitions: they are templates
{{- end -}}
{{- end -}}
{{- end -}}
