package emulatortest_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	"go.uber.org/goleak"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestServiceAccountOfTheSeed signs in as a Pod does, with a token of an issuer that is made for the test.
func TestServiceAccountOfTheSeed(t *testing.T) {
	server := emulatortest.Start(t, emulatortest.Seed)
	issuer := emulatortest.StartIssuer(t, server)
	options := azcore.ClientOptions{Transport: server.Client(), Retry: policy.RetryOptions{MaxRetries: -1}}
	get := func(serviceAccount string) error {
		credential, err := azidentity.NewClientAssertionCredential(emulatortest.Tenant, emulatortest.ClientID,
			func(context.Context) (string, error) {
				return issuer.Token("default", serviceAccount, "api://AzureADTokenExchange", time.Hour), nil
			}, &azidentity.ClientAssertionCredentialOptions{ClientOptions: options})
		if err != nil {
			t.Fatal(err)
		}
		client, err := azsecrets.NewClient(emulatortest.VaultURL, credential, &azsecrets.ClientOptions{ClientOptions: options})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.GetSecret(t.Context(), "none", "", nil)
		return err
	}
	if err := get("app"); err == nil || !strings.Contains(err.Error(), "SecretNotFound") {
		t.Errorf("the service account of the seed: %v", err)
	}
	if err := get("other"); err == nil || !strings.Contains(err.Error(), "AADSTS700213") {
		t.Errorf("another service account: %v", err)
	}
}

// TestEnvironment: the variables name the proxy and a file with the authority.
func TestEnvironment(t *testing.T) {
	server := emulatortest.Start(t, emulatortest.Seed)
	variables := map[string]string{}
	for _, variable := range emulatortest.Environment(t, server) {
		name, value, _ := strings.Cut(variable, "=")
		variables[name] = value
	}
	authority, err := os.ReadFile(variables["SSL_CERT_FILE"])
	if err != nil || string(authority) != string(server.CAPEM()) || variables["HTTPS_PROXY"] != "http://"+server.Address() {
		t.Errorf("%v: %v", variables, err)
	}
}

// TestTwoEmulators share nothing: neither objects nor an authority.
func TestTwoEmulators(t *testing.T) {
	first, second := emulatortest.Start(t, emulatortest.Seed), emulatortest.Start(t, emulatortest.Seed)
	ask := func(client *http.Client) (int, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, emulatortest.VaultURL+"/secrets/s?api-version=7.6", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		a, err := client.Do(r)
		if err != nil {
			return 0, err
		}
		return a.StatusCode, a.Body.Close()
	}
	if status, err := ask(first.Client()); err != nil || status != http.StatusUnauthorized {
		t.Errorf("%d, %v", status, err)
	}
	if len(second.Requests()) != 0 {
		t.Error("the second one saw a request of the first")
	}
	crossed, _ := first.Client().Transport.(*http.Transport)
	crossed = crossed.Clone()
	defer crossed.CloseIdleConnections()
	crossed.Proxy = http.ProxyURL(second.ProxyURL())
	if status, err := ask(&http.Client{Transport: crossed}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a client of the other one: %d, %v", status, err)
	}
}
