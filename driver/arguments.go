package driver

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/keyvault-csi/keyvault-csi-driver/driver/refresh"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Keys of the volume context. Kubelet sets those under csi.storage.k8s.io/ (podInfoOnMount and tokenRequests of the
// CSIDriver object); the others come from the pod's volumeAttributes.
const (
	kubeletPrefix     = "csi.storage.k8s.io/"
	keyEphemeral      = kubeletPrefix + "ephemeral"
	keyPodName        = kubeletPrefix + "pod.name"
	keyPodNamespace   = kubeletPrefix + "pod.namespace"
	keyPodUID         = kubeletPrefix + "pod.uid"
	keyServiceAccount = kubeletPrefix + "serviceAccount.name"
	keyTokens         = kubeletPrefix + "serviceAccount.tokens"
	keyClass          = "secretProviderClass"
)

// problems collects what is wrong with a request, so that all of it is said at once.
type problems []string

func (p *problems) require(ok bool, sentence string) {
	if !ok {
		*p = append(*p, sentence)
	}
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return &volume.Error{Reason: volume.ReasonInvalidRequest, Message: strings.Join(p, "; ")}
}

// checkPublish checks a NodePublishVolumeRequest and reads it. It returns every mistake at once.
func (d *Driver) checkPublish(req *csi.NodePublishVolumeRequest) (refresh.Publication, error) {
	context := req.GetVolumeContext()
	p := refresh.Publication{
		Ref: volume.Ref{
			ID:         req.GetVolumeId(),
			TargetPath: req.GetTargetPath(),
			Class:      strings.TrimSpace(context[keyClass]),
			Pod: volume.Pod{
				Namespace:      context[keyPodNamespace],
				Name:           context[keyPodName],
				UID:            context[keyPodUID],
				ServiceAccount: context[keyServiceAccount],
			},
		},
	}
	var wrong problems
	wrong.require(req.GetVolumeId() != "", "volume id is missing")
	d.checkTarget(&wrong, req.GetTargetPath())
	wrong.require(req.GetVolumeCapability() != nil, "volume capability is missing")
	wrong.require(req.GetVolumeCapability().GetBlock() == nil,
		"access type block is not supported: this driver mounts a file system")
	if len(context) == 0 {
		wrong.require(false, "volume context is missing: the CSIDriver object must have podInfoOnMount: true")
		return p, wrong.err()
	}
	wrong.require(req.GetReadonly(), "readOnly is not true: set readOnly: true on the pod's csi volume")
	wrong.require(context[keyEphemeral] != "false",
		"volume is not ephemeral: declare it inline in the pod (volumes[].csi), not as a PersistentVolume")
	wrong.require(p.Ref.Class != "", "secretProviderClass is not set in the pod's volumeAttributes")
	for _, key := range [...]string{keyPodName, keyPodNamespace, keyPodUID, keyServiceAccount} {
		if context[key] == "" {
			wrong.require(false, "volume context has no "+key+": the CSIDriver object must have podInfoOnMount: true")
		}
	}
	for key, value := range context {
		// a key with kubelet's prefix that is not known here was written by the author of the Pod
		if strings.HasPrefix(key, kubeletPrefix) || key == keyClass {
			continue
		}
		if p.Attributes == nil {
			p.Attributes = map[string]string{}
		}
		p.Attributes[key] = value
	}
	p.Ref.Attributes = volume.HashAttributes(p.Attributes)
	p.FSGroup = parseGroup(&wrong, req.GetVolumeCapability().GetMount().GetVolumeMountGroup())
	p.Tokens, p.Secrets = takeTokens(&wrong, req, d.volumes.Tokens(req.GetTargetPath()))
	return p, wrong.err()
}

// checkTarget accepts only paths below the kubelet directory: a process that can call the socket must not mount elsewhere.
func (d *Driver) checkTarget(wrong *problems, target string) {
	below, inside := strings.CutPrefix(target, d.kubeletDir)
	switch {
	case target == "":
		wrong.require(false, "target path is missing")
	case !filepath.IsAbs(target) || filepath.Clean(target) != target:
		wrong.require(false, "target path "+strconv.Quote(target)+" is not an absolute, clean path")
	case !inside || !strings.HasPrefix(below, "/"):
		wrong.require(false, "target path "+strconv.Quote(target)+" is outside the kubelet directory "+
			strconv.Quote(d.kubeletDir)+": set --kubelet-dir to kubelet's root directory")
	}
}

// parseGroup reads the pod's fsGroup, which kubelet passes where VOLUME_MOUNT_GROUP is advertised.
func parseGroup(wrong *problems, text string) *int64 {
	if text == "" {
		return nil
	}
	gid, err := strconv.ParseInt(text, 10, 32)
	if err != nil || gid < 0 {
		wrong.require(false, "volume mount group "+strconv.Quote(text)+" is not a group id")
		return nil
	}
	return &gid
}

// takeTokens finds the service account tokens: in secrets where the CSIDriver object has serviceAccountTokenInSecrets,
// else in the volume context. Where secrets has them those in the context are ignored, since a pod's author can write
// that key. What is left of secrets is nodePublishSecretRef's. Known are those of the last call for the volume.
func takeTokens(wrong *problems, req *csi.NodePublishVolumeRequest, known volume.Tokens) (volume.Tokens, volume.Secrets) {
	text, inSecrets := req.GetSecrets()[keyTokens]
	if !inSecrets {
		text = req.GetVolumeContext()[keyTokens]
	}
	var tokens volume.Tokens
	if text != "" {
		var err error
		if tokens, err = known.Renewed(text); err != nil {
			wrong.require(false, "service account tokens are not readable: "+err.Error())
		}
	}
	var secrets volume.Secrets
	for key, value := range req.GetSecrets() {
		if key == keyTokens {
			continue
		}
		if secrets == nil {
			secrets = volume.Secrets{}
		}
		secrets[key] = value
	}
	return tokens, secrets
}
