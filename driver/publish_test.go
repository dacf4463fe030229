package driver

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

func TestPublishMountsWhatTheClassNames(t *testing.T) {
	n := startNode(t)
	n.vault.Set("user", "alice")
	n.vault.Set("password", "s3cret\x00\r\n")
	n.classes.Put("db", map[string]string{"objects": "user,password"})
	n.mustPublish()
	n.wantFile("user", "alice")
	n.wantFile("password", "s3cret\x00\r\n")
	if state, err := n.mounts.State(n.target("a")); err != nil || state != tmpfs.Complete {
		t.Fatalf("state %v, %v", state, err)
	}
	n.unpublish("a")
	n.wantGone("a")
	n.unpublish("a") // again is fine
}

func TestRepublishAsksNobody(t *testing.T) {
	n := startNode(t)
	n.vault.Set("user", "alice")
	n.classes.Put("db", map[string]string{"objects": "user"})
	for range 5 {
		n.mustPublish()
	}
	if got := n.vault.Total(); got != 1 {
		t.Fatalf("%d requests, want 1", got)
	}
	if n.vault.Binds < 5 {
		t.Fatalf("the provider saw %d of 5 republishes: it would miss fresh tokens", n.vault.Binds)
	}
}

func TestPublishRefusesBadArguments(t *testing.T) {
	n := startNode(t)
	n.vault.Set("user", "alice")
	n.classes.Put("db", map[string]string{"objects": "user"})
	type request = csi.NodePublishVolumeRequest
	for name, tc := range map[string]struct {
		edit func(*request)
		want []string
	}{
		"no volume id":  {func(r *request) { r.VolumeId = "" }, []string{"volume id"}},
		"no target":     {func(r *request) { r.TargetPath = "" }, []string{"target path"}},
		"no capability": {func(r *request) { r.VolumeCapability = nil }, []string{"capability"}},
		"block": {func(r *request) {
			r.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		}, []string{"block"}},
		"no context":    {func(r *request) { r.VolumeContext = nil }, []string{"podInfoOnMount"}},
		"not read-only": {func(r *request) { r.Readonly = false }, []string{"readOnly: true"}},
		"no class":      {func(r *request) { delete(r.GetVolumeContext(), "secretProviderClass") }, []string{"secretProviderClass"}},
		"no pod name":   {func(r *request) { delete(r.GetVolumeContext(), "csi.storage.k8s.io/pod.name") }, []string{"pod.name"}},
		"a persistent volume": {func(r *request) { r.VolumeContext["csi.storage.k8s.io/ephemeral"] = "false" },
			[]string{"inline"}},
		"kubelet's directory itself":  {func(r *request) { r.TargetPath = n.dir }, []string{"outside", "--kubelet-dir"}},
		"outside kubelet's directory": {func(r *request) { r.TargetPath = "/etc/keyvault" }, []string{"outside", "--kubelet-dir"}},
		"a way out of kubelet's directory": {func(r *request) { r.TargetPath = filepath.Dir(r.GetTargetPath()) + "/../../../../../../x" },
			[]string{"clean"}},
		"a group that is none": {func(r *request) {
			r.VolumeCapability.GetMount().VolumeMountGroup = "staff"
		}, []string{"staff"}},
		"tokens that are none": {func(r *request) {
			r.Secrets = map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": "{canary"}
		}, []string{"tokens"}},
		"all at once": {func(r *request) { r.VolumeId, r.Readonly = "", false }, []string{"volume id", "readOnly"}},
	} {
		t.Run(name, func(t *testing.T) {
			req := n.request("bad", "db", tc.edit)
			_, err := n.NodePublishVolume(t.Context(), req)
			if status.Code(err) != codes.InvalidArgument {
				t.Fatalf("got %v", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %q", err, want)
				}
			}
			if strings.Contains(err.Error()+n.log.String(), "canary") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q", err)
			}
			n.wantGone("bad")
		})
	}
}

func TestPublishNamesWhatFailed(t *testing.T) {
	n := startNode(t)
	n.classes.Put("db", map[string]string{"objects": "absent"})
	n.classes.Put("wrong", map[string]string{"objects": "absent", "invalid": "keyvaultName"})
	for name, tc := range map[string]struct {
		class string
		code  codes.Code
		want  []string
	}{
		"class not found": {"none", codes.NotFound, []string{"failed to get secretproviderclass ns/none", "not found", "pod ns/a"}},
		"class invalid":   {"wrong", codes.InvalidArgument, []string{"pod ns/a, class wrong", "keyvaultName"}},
		"object missing":  {"db", codes.NotFound, []string{"pod ns/a, class db", `"absent"`}},
	} {
		t.Run(name, func(t *testing.T) {
			err := n.publish(tc.class)
			if status.Code(err) != tc.code {
				t.Fatalf("got %v", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %q", err, want)
				}
			}
			n.wantGone("a")
			if got := strings.Count(n.log.String(), `"msg":"call failed"`); got == 0 {
				t.Error("no log line for the failed call")
			}
		})
	}
	if got := strings.Count(n.log.String(), `"msg":"call failed"`); got != 3 {
		t.Errorf("%d log lines for 3 failed calls", got)
	}
}

// A target that a failed first try, or a driver killed between mount and write, left behind is no published volume.
func TestPublishFinishesWhatIsIncomplete(t *testing.T) {
	for name, leave := range map[string]func(n *node){
		"a plain directory": func(n *node) {
			if err := os.MkdirAll(n.target("a"), 0o750); err != nil {
				n.Fatal(err)
			}
		},
		"a mount without files": func(n *node) {
			if err := os.MkdirAll(filepath.Dir(n.target("a")), 0o750); err != nil {
				n.Fatal(err)
			}
			if err := n.mounts.Mount(n.target("a"), false); err != nil {
				n.Fatal(err)
			}
		},
		"a mount with an unfinished generation": func(n *node) {
			if err := os.MkdirAll(filepath.Dir(n.target("a")), 0o750); err != nil {
				n.Fatal(err)
			}
			if err := n.mounts.Mount(n.target("a"), false); err != nil {
				n.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(n.target("a"), "..2026_01_01_00_00_00.1"), 0o755); err != nil {
				n.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t)
			n.classes.Put("db", map[string]string{"objects": "user"})
			leave(n)
			for range 2 {
				if err := n.publish("db"); status.Code(err) != codes.NotFound {
					t.Fatalf("reported an incomplete volume as published: %v", err)
				}
			}
			n.vault.Set("user", "alice")
			n.mustPublish()
			n.wantFile("user", "alice")
		})
	}
}

func TestUnpublishEndsAPublishUnderWay(t *testing.T) {
	n := startNode(t)
	n.classes.Put("db", map[string]string{"objects": "user"})
	n.vault.Locked(func() { n.vault.Hang = true })
	result := make(chan error, 1)
	go func() { result <- n.publish("db") }()
	n.eventually("the fetch to hang", func() bool {
		hanging := 0
		n.vault.Locked(func() { hanging = n.vault.Hanging })
		return hanging == 1
	})
	n.unpublish("a")
	if err := <-result; status.Code(err) != codes.Aborted {
		t.Fatalf("got %v", err)
	}
	n.wantGone("a")
}

func TestPublishIsSerialPerTarget(t *testing.T) {
	n := startNode(t)
	n.vault.Set("user", "alice")
	n.classes.Put("db", map[string]string{"objects": "user"})
	var work sync.WaitGroup
	for range 20 {
		work.Go(func() {
			if err := n.publish("db"); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if got := n.vault.Total(); got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
	if got := len(n.recorder.Of(report.KindPublished)); got != 1 {
		t.Errorf("published %d times", got)
	}
}

func TestFsGroupOwnsTheFiles(t *testing.T) {
	n := startNode(t)
	n.vault.Set("user", "alice")
	n.classes.Put("db", map[string]string{"objects": "user"})
	gid := os.Getgid() // the one group that an unprivileged user namespace maps
	if mapsAll(t) {
		gid = 4242
	}
	n.mustPublish(func(r *csi.NodePublishVolumeRequest) {
		r.VolumeCapability.GetMount().VolumeMountGroup = strconv.Itoa(gid)
	})
	info, err := os.Stat(filepath.Join(n.target("a"), "user"))
	if err != nil {
		t.Fatal(err)
	}
	if got := int(info.Sys().(*syscall.Stat_t).Gid); got != gid {
		t.Errorf("group %d, want %d", got, gid)
	}
	if info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v: fsGroup must not change it", info.Mode())
	}
}

func TestExecutableFilesAreOnAnExecMount(t *testing.T) {
	n := startNode(t)
	n.vault.Set("script", "#!/bin/sh\nexit 0\n")
	n.vault.Mode = 0o755
	n.classes.Put("db", map[string]string{"objects": "script"})
	n.mustPublish()
	for line := range strings.Lines(mustRead(t, "/proc/self/mountinfo")) {
		if strings.Contains(line, n.target("a")) && strings.Contains(line, "noexec") {
			t.Errorf("noexec although a file is executable: %s", line)
		}
	}
}

func TestPanicIsAnErrorAndIsReported(t *testing.T) {
	n := startNode(t)
	n.classes.Put("db", map[string]string{"objects": "user"})
	n.vault.Panics = true
	err := n.publish("db")
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "canary") {
		t.Fatalf("got %v", err)
	}
	if len(n.recorder.Of(report.KindPanicked)) != 1 || !strings.Contains(n.log.String(), "stack") {
		t.Error("the panic left no trace")
	}
	if strings.Contains(n.log.String(), "canary") {
		t.Error("the panic's value is in the log")
	}
	n.vault.Locked(func() { n.vault.Panics = false; n.vault.Values["user"] = "alice" })
	n.mustPublish()
}

func TestStats(t *testing.T) {
	n := startNode(t)
	n.vault.Set("user", strings.Repeat("x", 8192))
	n.classes.Put("db", map[string]string{"objects": "user"})
	n.mustPublish()
	resp, err := n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "csi-a", VolumePath: n.target("a")})
	if err != nil {
		t.Fatal(err)
	}
	bytes := resp.GetUsage()[0]
	if bytes.GetUnit() != csi.VolumeUsage_BYTES || bytes.GetTotal() != 1<<20 || bytes.GetUsed() < 8192 {
		t.Errorf("usage %v", bytes)
	}
	_, err = n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "x", VolumePath: n.target("none")})
	if status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestProbeTellsTheTruth(t *testing.T) {
	n := startNode(t)
	probe := func() bool {
		resp, err := n.Probe(t.Context(), &csi.ProbeRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetReady().GetValue()
	}
	if !probe() {
		t.Error("not ready")
	}
	n.classes.SetReady(errors.New("the cache is cold"))
	if probe() {
		t.Error("ready although the classes are not")
	}
}

// A republish that fails must not become an error: older kubelets would delete the files of the running pod.
func TestFailingRepublishKeepsTheFiles(t *testing.T) {
	n := startNode(t)
	n.vault.Set("user", "alice")
	n.classes.Put("db", map[string]string{"objects": "user"})
	n.mustPublish()
	n.classes.Put("db", map[string]string{"objects": "user", "invalid": "keyvaultName"})
	n.mustPublish()
	n.wantFile("user", "alice")
	if events := n.recorder.Of(report.KindRefreshFailed); len(events) == 0 || events[0].Reason() != volume.ReasonInvalidClass {
		t.Errorf("events %v", events)
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// mapsAll tells whether this user namespace maps more groups than one.
func mapsAll(t *testing.T) bool {
	t.Helper()
	fields := strings.Fields(mustRead(t, "/proc/self/gid_map"))
	return len(fields) == 3 && fields[2] != "1"
}
