{{- /* checks fails the installation where values of another chart would do harm in silence. All that is wrong is said at once. */ -}}
{{- define "keyvault-csi.checks" -}}
{{- $wrong := list -}}
{{- range $key, $value := index .Values "secrets-store-csi-driver" -}}
{{- if eq $key "linux" -}}
{{- range $below, $_ := $value -}}
{{- $wrong = append $wrong (printf "secrets-store-csi-driver.linux.%s: there is no chart below this one: write linux.%s, or leave it out" $below $below) -}}
{{- end -}}
{{- else if eq $key "install" -}}
{{- $wrong = append $wrong "secrets-store-csi-driver.install: leave it out: this driver needs no other one" -}}
{{- else -}}
{{- $wrong = append $wrong (printf "secrets-store-csi-driver.%s: there is no chart below this one: write %s, or leave it out" $key $key) -}}
{{- end -}}
{{- end -}}
{{- if regexMatch "(^|/)(provider-azure|driver)$" .Values.linux.image.repository -}}
{{- $wrong = append $wrong (printf "linux.image.repository: %s is the image of another driver or provider: leave it out, or name this driver's" .Values.linux.image.repository) -}}
{{- end -}}
{{- if and (include "keyvault-csi.metricsHost" .) (not .Values.linux.hostNetwork) -}}
{{- $wrong = append $wrong (printf "linux.metricsAddr: %s names a host, which kubelet's probes would not reach: write :%s, or set linux.hostNetwork" .Values.linux.metricsAddr (include "keyvault-csi.metricsPort" .)) -}}
{{- end -}}
{{- if and .Values.syncSecret.enabled (not (and .Values.policies.enabled .Values.policies.driver)) (not .Values.syncSecret.withoutAdmissionPolicy) -}}
{{- $wrong = append $wrong "syncSecret.enabled: without the admission policy of the driver, whoever gets its token can become cluster-admin: leave policies.enabled and policies.driver true, or accept that by name with syncSecret.withoutAdmissionPolicy: true" -}}
{{- end -}}
{{- if and (ne .Values.nodeIdentity.allowed "namespaces") .Values.nodeIdentity.namespaces -}}
{{- $wrong = append $wrong (printf "nodeIdentity.namespaces: has no effect with nodeIdentity.allowed=%s: set nodeIdentity.allowed=namespaces, or leave the namespaces out" .Values.nodeIdentity.allowed) -}}
{{- end -}}
{{- if and (eq .Values.nodeIdentity.allowed "namespaces") (not .Values.nodeIdentity.namespaces) -}}
{{- $wrong = append $wrong "nodeIdentity.allowed: is namespaces, and nodeIdentity.namespaces is empty: list them or write a label selector, or set nodeIdentity.allowed=none" -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\n\n  %s\n" (join "\n  " $wrong)) -}}
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
  "customUserAgent" "requests are always keyvault-csi's" "resources" "set linux.driver.resources"
  "healthzPort" "probes ask linux.metricsAddr" "healthzPath" "probes ask linux.metricsAddr" "healthzTimeout" "probes ask linux.metricsAddr"
  "privileged" "the container is always privileged: mount propagation needs it" -}}
{{- range $key, $text := $linux -}}
{{- if hasKey $.Values.linux $key }}
  linux.{{ $key }}: {{ $text }}
{{- end -}}
{{- end -}}
{{- range $key := list "image" "resources" "podLabels" -}}
{{- if hasKey $.Values.linux.crds $key }}
  linux.crds.{{ $key }}: no job installs the CustomResourceDefinitions: they are templates
{{- end -}}
{{- end -}}
{{- end -}}
