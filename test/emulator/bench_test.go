package emulator_test

import (
	"crypto/tls"
	"net/http"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

// BenchmarkGetSecret gets a secret from 64 clients at once, each answer 20 ms late.
func BenchmarkGetSecret(b *testing.B) {
	s := emulatortest.Start(b, seed)
	s.SetLatency(20 * time.Millisecond)
	o := azcore.ClientOptions{Transport: &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyURL(s.ProxyURL()), TLSClientConfig: &tls.Config{RootCAs: s.CAPool()}, ForceAttemptHTTP2: true,
	}}}
	credential, err := azidentity.NewClientSecretCredential(tenant, client, "p4ss", &azidentity.ClientSecretCredentialOptions{ClientOptions: o})
	if err != nil {
		b.Fatal(err)
	}
	c, err := azsecrets.NewClient(vault, credential, &azsecrets.ClientOptions{ClientOptions: o})
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.GetSecret(b.Context(), "s", "", nil); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}
