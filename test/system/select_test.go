package system

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// old sets a secret that was created an hour ago.
func old(t *testing.T, n *kubelet.Node, name, value string, tags map[string]string) {
	t.Helper()
	_, err := n.Emulator.SetSecret(kubelet.Vault, emulator.Secret{Name: name, Value: value, Tags: tags, Created: time.Now().Add(-time.Hour)})
	must(t, err)
}

// files returns the paths of the files of a Pod's volume, sorted.
func files(t *testing.T, n *kubelet.Node, pod string) (paths []string) {
	t.Helper()
	root := filepath.Join(n.Target(pod), "..data") + "/"
	must(t, filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			paths = append(paths, strings.TrimPrefix(path, root))
		}
		return err
	}))
	return paths
}

var requestsMetric = regexp.MustCompile(`(?m)^keyvault_csi_vault_requests_total\{operation="([a-z ]+)",reason=""\} (\d+)$`)

// vaultRequests returns the driver's count of requests by operation.
func vaultRequests(t *testing.T, n *kubelet.Node) map[string]int {
	t.Helper()
	_, body := get(t, "http://"+n.Address("health and metrics")+"/metrics")
	counts := map[string]int{}
	for _, m := range requestsMetric.FindAllStringSubmatch(body, -1) {
		counts[m[1]], _ = strconv.Atoi(m[2])
	}
	return counts
}

// TestSelections: what matches is mounted, what is disabled or belongs to a certificate is not.
func TestSelections(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed+`  keys:
  - {name: db-key, type: RSA}
  certificates:
  - {name: web, chain: 1}
  - {name: db-web, chain: 1}
`)
	for name, tags := range map[string]map[string]string{
		"db-user": {"team": "shop", "env": "prod"}, "DB-password": {"team": "shop"}, "db-off": {"team": "shop"}, "mail": {"team": ""}, "other": nil,
	} {
		old(t, n, name, "value of "+name, tags)
	}
	must(t, n.Emulator.Disable(kubelet.Vault, "secrets", "db-off", "", true))
	_, err := n.Emulator.SetSecret(kubelet.Vault, emulator.Secret{Name: "db-expired", Value: "x", Expires: time.Now().Add(-time.Hour)})
	must(t, err)
	for name, tc := range map[string]struct {
		object string
		want   []string
		err    string
	}{
		"glob":              {object: "objectSelector: {name: db-*}", want: []string{"DB-password", "db-expired", "db-user"}},
		"expression":        {object: "objectSelector: {name: /^(mail|other)$/}, objectAlias: 'dir/{name}.txt'", want: []string{"dir/mail.txt", "dir/other.txt"}},
		"tag":               {object: "objectSelector: {tags: {team: shop}}", want: []string{"DB-password", "db-user"}},
		"tags":              {object: "objectSelector: {tags: {team: shop, env: prod}}", want: []string{"db-user"}},
		"tag with any":      {object: "objectSelector: {tags: {team: ''}}", want: []string{"DB-password", "db-user", "mail"}},
		"managed too":       {object: "objectSelector: {name: '*web', managed: true}", want: []string{"db-web", "web"}},
		"none":              {object: "objectSelector: {name: nothing-*}", err: `secrets matching "nothing-*": none of them exists and is enabled`},
		"none is fine":      {object: "objectSelector: {name: nothing-*}, optional: true", want: nil},
		"disabled alone":    {object: "objectSelector: {name: db-off}", err: "none of them exists and is enabled"},
		"more than allowed": {object: "objectSelector: {name: '*', limit: 2}", err: "there are 5 of them, and the limit is 2"},
		"keys":              {object: "objectSelector: {name: db-*}, objectType: key", want: []string{"db-key"}},
		"certificates":      {object: "objectSelector: {name: '*'}, objectType: cert, objectAlias: '{name}.pem'", want: []string{"db-web.pem", "web.pem"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := n.In(t)
			class := strings.ReplaceAll(name, " ", "-")
			object := tc.object
			if !strings.Contains(object, "objectType") {
				object += ", objectType: secret"
			}
			n.Class(class, map[string]string{"objects": "array:\n- |\n  {" + object + "}\n"})
			err := n.Publish(class, class)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%v", err)
				}
				return
			}
			must(t, err)
			if got := files(t, n, class); !slices.Equal(got, tc.want) {
				t.Errorf("files %v, want %v", got, tc.want)
			}
		})
	}
	// two selections that meet in one path
	n.Class("clash", map[string]string{"objects": "array:\n- '{objectSelector: {name: db-u*}, objectType: secret}'\n- '{objectSelector: {name: db-user}, objectType: secret}'\n"})
	if err := n.Publish("clash", "clash"); err == nil || !strings.Contains(err.Error(), "two files have this path") {
		t.Errorf("%v", err)
	}
	if !strings.Contains(n.Log(), "expired at") {
		t.Error("no warning of an expired object")
	}
}

// TestSelectionWithoutTheRightToList names the permission and the role.
func TestSelectionWithoutTheRightToList(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed)
	n.Secret("a", "1")
	must(t, n.Emulator.Grant(kubelet.Vault, kubelet.Client, "secrets/get"))
	n.Class("c", map[string]string{"objects": "array:\n- '{objectSelector: {name: a*}, objectType: secret}'\n"})
	err := n.Publish("a", "c")
	if err == nil || !strings.Contains(err.Error(), "list of secrets") || !strings.Contains(err.Error(), `"Key Vault Secrets User"`) {
		t.Errorf("%v", err)
	}
}

// TestSelectionFollowsTheVault: objects come and go in one generation, a poll lists and gets only what changed, and a second Pod costs
// nothing.
func TestSelectionFollowsTheVault(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "10s", "--cache-ttl", "0s", "--http-addr", kubelet.AnyPort)
	const many = 100
	for i := range many {
		old(t, n, fmt.Sprintf("s-%02d", i), "1", nil)
	}
	n.Class("c", map[string]string{"objects": "array:\n- '{objectSelector: {name: s-*}, objectType: secret}'\n"})
	must(t, n.Publish("a", "c"))
	if got := vaultRequests(t, n); got["list secret"] != 4 || got["get secret"] != many {
		t.Fatalf("the mount made %v", got)
	}
	must(t, n.Publish("b", "c"))
	if got := vaultRequests(t, n); got["get secret"] != many {
		t.Errorf("a second Pod made %v", got)
	}
	lists := vaultRequests(t, n)["list secret"]
	n.Eventually("a poll without a change", func() bool { return vaultRequests(t, n)["list secret"] > lists })
	n.Secret("s-42", "2")
	n.Eventually("the changed value", func() bool { return n.Read("a", "s-42") == "2" && n.Read("b", "s-42") == "2" })
	if got := vaultRequests(t, n)["get secret"]; got < many+1 || got > many+2 {
		t.Errorf("%d gets, want one for the changed object, and one more where the next poll came before the count", got-many)
	}
	if got := vaultRequests(t, n)["list secret"]; got%4 != 0 {
		t.Errorf("%d list requests: a list is 4", got)
	}
	n.Secret("s-new", "new")
	must(t, n.Emulator.Delete(kubelet.Vault, "secrets", "s-07", true))
	n.Eventually("the new and without the old file", func() bool { return exists(n, "s-new") && !exists(n, "s-07") })
	if got := len(files(t, n, "a")); got != many {
		t.Errorf("%d files", got)
	}
}

// TestChangeDetectionByList: objects that are named are listed where that is worth it, and got where it is not.
func TestChangeDetectionByList(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "10s", "--cache-ttl", "0s", "--http-addr", kubelet.AnyPort)
	var many []string
	for i := range 60 {
		many = append(many, fmt.Sprintf("s-%02d", i))
		old(t, n, many[i], "1", nil)
	}
	n.Class("many", map[string]string{"changeDetection": "list", "objects": kubelet.Objects(many...)})
	n.MustPublish("a", "many")
	if got := vaultRequests(t, n); got["list secret"] != 0 || got["get secret"] != 60 {
		t.Fatalf("the mount made %v", got)
	}
	n.Eventually("a poll", func() bool { return vaultRequests(t, n)["list secret"] >= 3 })
	if got := vaultRequests(t, n); got["get secret"] != 60 {
		t.Errorf("a poll without a change made %v", got)
	}
	n.Secret("s-07", "2")
	n.Eventually("the new value", func() bool { return n.Read("a", "s-07") == "2" })
	if got := vaultRequests(t, n)["get secret"]; got > 62 {
		t.Errorf("%d gets for one change", got-60)
	}
	must(t, n.Emulator.Disable(kubelet.Vault, "secrets", "s-08", "", true))
	n.Eventually("the failure", func() bool { return strings.Contains(n.Log(), `secret \"s-08\": it is disabled`) })
	must(t, n.Emulator.Disable(kubelet.Vault, "secrets", "s-08", "", false))
	_, body := get(t, "http://"+n.Address("health and metrics")+"/metrics")
	if !strings.Contains(body, `keyvault_csi_change_detections_total{by="list"}`) {
		t.Error("no metric of the lists")
	}
}

// TestChangeDetectionFallsBack: where listing is refused, or needs more requests, each object is got.
func TestChangeDetectionFallsBack(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		grant []string
		more  int
		want  string
	}{
		"refused": {[]string{"secrets/get"}, 0, "get, listing is refused"},
		"costly":  {[]string{"*"}, 100, "get, a list needs more requests"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "1s", "--cache-ttl", "0s", "--http-addr", kubelet.AnyPort, "--admin-addr", kubelet.AnyPort)
			for i := range tc.more {
				old(t, n, fmt.Sprintf("more-%d", i), "1", nil)
			}
			old(t, n, "a", "1", nil)
			old(t, n, "b", "1", nil)
			must(t, n.Emulator.Grant(kubelet.Vault, kubelet.Client, tc.grant...))
			n.Class("c", map[string]string{"changeDetection": "list", "objects": kubelet.Objects("a", "b")})
			n.MustPublish("a", "c")
			metric := fmt.Sprintf("keyvault_csi_change_detections_total{by=%q}", tc.want)
			n.Eventually(metric, func() bool {
				_, body := get(t, "http://"+n.Address("health and metrics")+"/metrics")
				return strings.Contains(body, metric)
			})
			n.Secret("b", "2")
			n.Eventually("the new value", func() bool { return n.Read("a", "b") == "2" })
			if text, err := run(t, "status", "--admin-addr", n.Address("admin"), "-o", "json"); err != nil ||
				!strings.Contains(text, `"changeDetection": "`+tc.want+`"`) {
				t.Errorf("status says %s %v", text, err)
			}
			if strings.Contains(n.Log(), "the files stay as they are") {
				t.Errorf("a refresh failed:\n%s", n.Log())
			}
		})
	}
}

// TestLatestEnabled: the newest enabled version where the newest is disabled.
func TestLatestEnabled(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "1s", "--cache-ttl", "0s")
	var versions []string
	for i := range 3 {
		version, err := n.Emulator.SetSecret(kubelet.Vault, emulator.Secret{Name: "s", Value: strconv.Itoa(i), Created: time.Now().Add(time.Duration(i-10) * time.Minute)})
		must(t, err)
		versions = append(versions, version)
	}
	must(t, n.Emulator.Disable(kubelet.Vault, "secrets", "s", versions[2], true))
	n.Class("c", map[string]string{"objects": "array:\n- '{objectName: s, objectType: secret, objectVersion: latestEnabled}'\n"})
	n.MustPublish("a", "c")
	if got := n.Read("a", "s"); got != "1" {
		t.Errorf("version %q", got)
	}
	must(t, n.Emulator.Disable(kubelet.Vault, "secrets", "s", versions[2], false))
	n.Eventually("the newest", func() bool { return n.Read("a", "s") == "2" })
	must(t, n.Emulator.Disable(kubelet.Vault, "secrets", "s", "", true))
	n.Eventually("the failure", func() bool { return strings.Contains(n.Log(), "has no enabled version") })
	if got := n.Read("a", "s"); got != "2" {
		t.Errorf("after a failure %q", got)
	}
}

// TestLatestEnabledKey: of a key or certificate the vault gives the newest version although it is disabled.
func TestLatestEnabledKey(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed)
	old, disabled := strings.Repeat("a", 32), strings.Repeat("b", 32)
	for i, version := range []string{old, disabled} {
		created := time.Now().Add(time.Duration(i-10) * time.Minute)
		must(t, n.Emulator.SetKey(kubelet.Vault, emulator.Key{Name: "k", Type: "EC", Curve: "P-256", Version: version, Created: created}))
	}
	must(t, n.Emulator.Disable(kubelet.Vault, "keys", "k", disabled, true))
	n.Class("c", map[string]string{"objects": "array:\n- '{objectName: k, objectType: key, objectVersion: latestEnabled, objectAlias: enabled}'\n" +
		"- '{objectName: k, objectType: key, objectVersion: " + old + ", objectAlias: old}'\n- '{objectName: k, objectType: key, objectAlias: newest}'\n"})
	n.MustPublish("a", "c")
	if enabled := n.Read("a", "enabled"); enabled != n.Read("a", "old") || enabled == n.Read("a", "newest") {
		t.Errorf("the key is not that of the newest enabled version")
	}
}

// TestVaultTooLargeToList: a selection of a vault with more than 2,000 objects says what to do.
func TestVaultTooLargeToList(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed)
	for i := range 2001 {
		n.Secret(fmt.Sprintf("s-%04d", i), "x")
	}
	n.Class("c", map[string]string{"objects": "array:\n- '{objectSelector: {name: s-0001}, objectType: secret}'\n"})
	if err := n.Publish("a", "c"); err == nil || !strings.Contains(err.Error(), "more than 2000 objects") || !strings.Contains(err.Error(), "objectName") {
		t.Errorf("%v", err)
	}
}
