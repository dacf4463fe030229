//go:build integration && bench

package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestFiguresOfSecretSyncs prints what 5,000 SecretSyncs of 200 identities cost the controller: memory, requests, the time to sync them all, a
// restart, and how soon an edit is in its Secret. FIGURES_SECRETSYNCS takes another number.
func TestFiguresOfSecretSyncs(t *testing.T) {
	all := 5000
	if text := os.Getenv("FIGURES_SECRETSYNCS"); text != "" {
		var err error
		all, err = strconv.Atoi(text)
		must(t, err)
	}
	const identities, objects = 200, 5
	c := controlplane.Start(t, controlplane.Options{})
	metrics := freeAddress(t)
	s := newController(t, c)
	s.stop(syscall.SIGTERM)
	for i := range identities {
		seed, err := emulator.ParseSeed(fmt.Appendf(nil, "tenants:\n- id: %s\n  applications:\n  - clientID: %s\n    federated: [{issuer: %s, subject: %s}]\n",
			kubelet.Tenant, client(i), s.TokenIssuer().Issuer, fmt.Sprintf("system:serviceaccount:%s:team-%d", s.shop, i)))
		must(t, err)
		must(t, s.vault.Apply(seed))
		must(t, s.vault.Grant(kubelet.Vault, client(i), "secrets/get"))
	}
	for i := range objects {
		s.set(fmt.Sprintf("object-%d", i), canaryValue+strconv.Itoa(i))
	}
	admin := newCaller(t, c.Admin())
	parallel(identities, func(i int) {
		var list strings.Builder
		for n := range objects {
			fmt.Fprintf(&list, "  - |\n    objectName: object-%d\n    objectType: secret\n", n)
		}
		got := admin.do("PATCH", fmt.Sprintf("/api/v1/namespaces/%s/serviceaccounts/team-%d?fieldManager=helm", s.shop, i), "apply-patch+yaml",
			fmt.Sprintf(`{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"team-%d"}}`, i))
		if got.code != 201 {
			t.Errorf("account: %d %s", got.code, got.body)
		}
		got = admin.do("PATCH", fmt.Sprintf("/apis/secrets-store.csi.x-k8s.io/v1/namespaces/%s/secretproviderclasses/team-%d?fieldManager=helm", s.shop, i),
			"apply-patch+yaml", fmt.Sprintf(`{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass","metadata":{"name":"team-%d"},`+
				`"spec":{"provider":"azure","parameters":{"keyvaultName":%q,"tenantID":%q,"clientID":%q,"objects":%q}}}`,
				i, kubelet.Vault, kubelet.Tenant, client(i), "array:\n"+list.String()))
		if got.code != 201 {
			t.Errorf("class: %d %s", got.code, got.body)
		}
	})
	write := func(i int, key string) {
		got := admin.do("PATCH", fmt.Sprintf("/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/%s/secretsyncs/sync-%d?fieldManager=helm", s.shop, i),
			"apply-patch+yaml", fmt.Sprintf(`{"apiVersion":"secret-sync.x-k8s.io/v1alpha1","kind":"SecretSync","metadata":{"name":"sync-%d"},"spec":{`+
				`"secretProviderClassName":"team-%d","serviceAccountName":"team-%d","secretObject":{"type":"Opaque","data":[{"sourcePath":"object-%d","targetKey":%q}]}}}`,
				i, i%identities, i%identities, i%objects, key))
		if got.code/100 != 2 {
			t.Errorf("secretsync: %d %s", got.code, got.body)
		}
	}
	flags := []string{"--metrics-addr", metrics, "--rotation-interval", "2m", "--cache-ttl", "10s"}
	idle := s.launchTo(t, s.log, flags...)
	time.Sleep(70 * time.Second)
	kib, cpu := processOf(t, s.pid)
	fmt.Printf("\nThe controller without a SecretSync, after 70 s: RSS %.1f MiB, CPU %v\n", float64(kib)/1024, cpu)
	idle(syscall.SIGTERM)
	parallel(all, func(i int) { write(i, "password") })

	sources := identities * objects
	state := func(name string) int {
		_, text := fetch(t, "http://"+metrics+"/metrics")
		_, after, _ := strings.Cut(text, fmt.Sprintf("keyvault_csi_secretsyncs{state=%q} ", name))
		value, _, _ := strings.Cut(after, "\n")
		n, _ := strconv.Atoi(value)
		return n
	}
	requests := func() int {
		_, text := fetch(t, "http://"+metrics+"/metrics")
		_, after, _ := strings.Cut(text, `keyvault_csi_vault_requests_total{operation="get secret",reason=""} `)
		value, _, _ := strings.Cut(after, "\n")
		n, _ := strconv.Atoi(value)
		return n
	}
	fmt.Printf("\nThe controller with %d SecretSyncs of %d identities, %d sources\n", all, identities, sources)
	stop := s.launchTo(t, s.log, flags...)
	start := time.Now()
	for state("synced") < all && time.Since(start) < 20*time.Minute {
		time.Sleep(200 * time.Millisecond)
	}
	row := func(what string) {
		kib, cpu := processOf(t, s.pid)
		fmt.Printf("  %-34s after %8v  RSS %6.1f MiB  CPU %8v  requests to the vault %5d\n", what, time.Since(start).Round(time.Millisecond),
			float64(kib)/1024, cpu, requests())
	}
	row("all are synced")
	before := requests()
	time.Sleep(6 * time.Minute)
	row("three intervals later")
	fmt.Printf("  %-34s %.2f\n", "requests per source and interval", float64(requests()-before)/float64(sources)/3)
	edited := time.Now()
	write(7, "renamed")
	s.Eventually("the edit", func() bool { return s.holds("sync-7", "renamed", canaryValue+"2") })
	fmt.Printf("  %-34s %v\n", "an edit is in its Secret after", time.Since(edited).Round(time.Millisecond))
	stop(syscall.SIGTERM)
	stop = s.launchTo(t, s.log, flags...)
	defer func() { stop(syscall.SIGTERM) }()
	start = time.Now()
	for second := range 12 {
		time.Sleep(10 * time.Second)
		fmt.Printf("  %-34s %5d\n", fmt.Sprintf("requests %d s after a restart", 10*(second+1)), requests())
	}
	row("two minutes after a restart")
}

// client is the client id of a team.
func client(i int) string { return fmt.Sprintf("33333333-0000-0000-0000-%012d", i) }

// parallel calls f with 0 to n-1, 16 at a time.
func parallel(n int, f func(i int)) {
	work := make(chan int)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for i := range work {
				f(i)
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	group.Wait()
}
