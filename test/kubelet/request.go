package kubelet

import (
	"encoding/json"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

// Target is where kubelet, whose root directory is given, wants the volume of a pod.
func Target(dir, pod string) string {
	return filepath.Join(dir, "pods", "uid-"+pod, "volumes/kubernetes.io~csi/secrets/mount")
}

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
		Secrets: map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": tokens},
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
