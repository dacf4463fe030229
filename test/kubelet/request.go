package kubelet

import (
	"encoding/json"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

// Target is where kubelet, whose root directory is given, wants the volume of a pod.
func Target(dir, pod string) string {
	return filepath.Join(dir, "pods", "uid-"+pod, "volumes/kubernetes.io~csi/secrets/mount")
}

// tokensKey is where kubelet puts service account tokens among the secrets of a request.
const tokensKey = "csi.storage.k8s.io/serviceAccount.tokens" //nolint:gosec // a name

// PublishRequest is what kubelet sends for an inline volume of a pod of the service account default/app.
func PublishRequest(target, pod, class, tokens string) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId: "csi-" + pod, TargetPath: target, Readonly: true,
		VolumeCapability: &csi.VolumeCapability{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		},
		VolumeContext: map[string]string{
			"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.name": pod,
			"csi.storage.k8s.io/pod.namespace": "default", "csi.storage.k8s.io/pod.uid": "uid-" + pod,
			"csi.storage.k8s.io/serviceAccount.name": "app", "secretProviderClass": class,
		},
		Secrets: map[string]string{tokensKey: tokens},
	}
}

// ForPod makes the request that of a Pod of the API server, with tokens for it.
func ForPod(pod *corev1.Pod, tokens string) func(*csi.NodePublishVolumeRequest) {
	return func(r *csi.NodePublishVolumeRequest) {
		r.VolumeContext["csi.storage.k8s.io/pod.name"] = pod.Name
		r.VolumeContext["csi.storage.k8s.io/pod.namespace"] = pod.Namespace
		r.VolumeContext["csi.storage.k8s.io/pod.uid"] = string(pod.UID)
		r.VolumeContext["csi.storage.k8s.io/serviceAccount.name"] = pod.Spec.ServiceAccountName
		r.Secrets[tokensKey] = tokens
	}
}

// Tokens is what kubelet passes for the audiences of the CSIDriver object.
func Tokens(issuer *emulatortest.Issuer, namespace, serviceAccount string, lifetime time.Duration) string {
	tokens := map[string]any{}
	for _, audience := range []string{"api://AzureADTokenExchange", "api://AKSIdentityBinding"} {
		tokens[audience] = map[string]any{
			"token":               issuer.Token(namespace, serviceAccount, audience, lifetime),
			"expirationTimestamp": time.Now().Add(lifetime).UTC().Format(time.RFC3339),
		}
	}
	text, err := json.Marshal(tokens)
	if err != nil {
		panic(err) // plain strings marshal
	}
	return string(text)
}
