package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// Paths inside the cluster's namespaces, where these directories are not the machine's.
const (
	kubeletDir       = "/var/lib/kubelet"
	containerdSocket = "/run/containerd/containerd.sock"
)

const pauseImage = "localhost/pause:1"

// containerdConfig is containerd's configuration, version 3. Its root survives a reboot, its state does not.
func containerdConfig(dir string, programs controlplane.Programs) string {
	return fmt.Sprintf(`version = 3
root = %[1]q
state = "/run/containerd"
imports = []

[grpc]
address = %[2]q

[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = %[3]q

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = %[4]q
SystemdCgroup = false

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [%[5]q, %[6]q]
conf_dir = %[7]q
use_internal_loopback = true
`, filepath.Join(dir, "containerd"), containerdSocket, pauseImage, programs["runc"],
		filepath.Dir(programs["bridge"]), filepath.Dir(programs["host-local"]), filepath.Join(dir, "cni"))
}

// cniConfig is a bridge with the Pods' addresses; what leaves it has the node's address.
const cniConfig = `{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [{
    "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni"}
  }]
}`

// kubeletConfig is kubelet's configuration for a machine with cgroup v1 hierarchies, without swap limits or evictions.
func kubeletConfig(s *settings, clientCA string) ([]byte, error) {
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true},
			"x509": map[string]any{"clientCAFile": clientCA},
		},
		"authorization":                 map[string]any{"mode": "Webhook"},
		"containerRuntimeEndpoint":      "unix://" + containerdSocket,
		"cgroupDriver":                  "cgroupfs",
		"cgroupRoot":                    s.cgroup(),
		"failCgroupV1":                  false,
		"enforceNodeAllocatable":        []string{},
		"evictionHard":                  map[string]string{"memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%", "imagefs.inodesFree": "0%"},
		"imageGCHighThresholdPercent":   100,
		"failSwapOn":                    false,
		"makeIPTablesUtilChains":        false,
		"localStorageCapacityIsolation": false,
		"maxOpenFiles":                  20000,
		"oomScoreAdj":                   0,
		"podLogsDir":                    "/var/log/pods",
		"resolvConf":                    "",
		"volumePluginDir":               filepath.Join(kubeletDir, "plugin-programs"),
		"registryPullQPS":               0,
		"eventRecordQPS":                0,
		"kubeAPIQPS":                    100, "kubeAPIBurst": 200,
		// A status that is sent at once: a test waits for it.
		"nodeStatusUpdateFrequency": "2s",
	}
	if s.SyncFrequency > 0 {
		config["syncFrequency"] = s.SyncFrequency.String()
	}
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("configure kubelet: %w", err)
	}
	return data, nil
}

// writeConfigs writes what containerd, the CNI and kubelet read.
func writeConfigs(s *settings, programs controlplane.Programs, clientCA string) error {
	kubelet, err := kubeletConfig(s, clientCA)
	if err != nil {
		return err
	}
	for path, data := range map[string][]byte{
		"containerd.toml":   []byte(containerdConfig(s.Dir, programs)),
		"kubelet.yaml":      kubelet,
		"cni/pods.conflist": []byte(cniConfig),
	} {
		path = filepath.Join(s.Dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("configure: %w", err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return fmt.Errorf("configure: %w", err)
		}
	}
	return nil
}
