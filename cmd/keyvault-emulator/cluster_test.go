package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// apiServer has one Secret, default/authority, as an API server has it: a patch of another resource version is a conflict.
type apiServer struct {
	version int
	data    map[string][]byte
	// meanwhile is called once before a patch.
	meanwhile func()
	patches   int
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/api/v1/namespaces/default/secrets/authority" {
		http.Error(w, "no", http.StatusForbidden)
		return
	}
	if r.Method == http.MethodPatch {
		s.patches++
		if s.meanwhile != nil {
			s.meanwhile()
			s.meanwhile = nil
		}
		var in secretBody
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Header.Get("Content-Type") != "application/merge-patch+json" {
			http.Error(w, "bad", http.StatusBadRequest)
			return
		}
		if in.Metadata.ResourceVersion != strconv.Itoa(s.version) {
			http.Error(w, "conflict", http.StatusConflict)
			return
		}
		s.version, s.data = s.version+1, in.Data
	}
	var out secretBody
	out.Metadata.ResourceVersion, out.Data = strconv.Itoa(s.version), s.data
	_ = json.NewEncoder(w).Encode(out)
}

// TestAuthorityOfASecret: the first emulator makes it, and all others use it.
func TestAuthorityOfASecret(t *testing.T) {
	api := &apiServer{version: 1}
	server := httptest.NewServer(api)
	defer server.Close()
	ask := func(secret string) ([]byte, []byte, error) {
		return clusterAuthority(t.Context(), server.Client(), server.URL, secret)
	}
	certificate, key, err := ask("default/authority")
	must(t, err)
	if !bytes.Equal(api.data["ca.crt"], certificate) || !bytes.Equal(api.data["ca.key"], key) || api.patches != 1 {
		t.Errorf("the Secret has %q after %d patches", api.data, api.patches)
	}
	if again, _, err := ask("default/authority"); err != nil || !bytes.Equal(again, certificate) || api.patches != 1 {
		t.Errorf("the next emulator has another one: %v", err)
	}

	// two at the same time: the one that is later takes that of the other
	other, otherKey, err := emulator.NewAuthority()
	must(t, err)
	api.data = map[string][]byte{"ca.crt": []byte("none")}
	api.meanwhile = func() {
		api.version++
		api.data = map[string][]byte{"ca.crt": other, "ca.key": otherKey}
	}
	if got, _, err := ask("default/authority"); err != nil || !bytes.Equal(got, other) {
		t.Errorf("two at the same time: %v", err)
	}

	for secret, want := range map[string]string{
		"default/other": "must exist, and the Pod may get and patch it: " + server.URL, "authority": "write NAMESPACE/NAME", "a/../b": "write NAMESPACE/NAME",
		"/": "write NAMESPACE/NAME", "A/b": "write NAMESPACE/NAME",
	} {
		if _, _, err := ask(secret); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", secret, err)
		}
	}
}

// TestAuthorityOfASecretOutsideOfACluster is refused.
func TestAuthorityOfASecretOutsideOfACluster(t *testing.T) {
	for want, args := range map[string][]string{
		"this is for a Pod": {"--ca-secret", "a/b"},
		"give one":          {"--ca-secret", "a/b", "--ca-file", "f", "--ca-key-file", "g"},
	} {
		c := command()
		c.SetArgs(args)
		c.SetErr(new(strings.Builder))
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
