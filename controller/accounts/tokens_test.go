package accounts

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// TestTokensAreShared: what is wanted while a token is asked for gets the same answer, good or bad; a token serves until four fifths of its life
// are over.
func TestTokensAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		var fails error
		c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{SubResourceCreate: func(
			_ context.Context, _ client.Client, _ string, _, sub client.Object, _ ...client.SubResourceCreateOption,
		) error {
			asked.Add(1)
			time.Sleep(time.Second)
			request, ok := sub.(*authenticationv1.TokenRequest)
			if !ok || *request.Spec.ExpirationSeconds != 600 || len(request.Spec.Audiences) != 1 {
				t.Errorf("asked for %+v", sub)
				return nil
			}
			request.Status = authenticationv1.TokenRequestStatus{Token: "t", ExpirationTimestamp: metav1.NewTime(time.Now().Add(10 * time.Minute))}
			return fails
		}}).Build()
		a := New(c, clock.RealClock{}, []string{"aud"})
		all := func(want int32, fail bool) {
			t.Helper()
			var work sync.WaitGroup
			for range 50 {
				work.Go(func() {
					r, err := a.Request(t.Context(), volume.Pod{Namespace: "shop", ServiceAccount: "app"}, &v1.SecretProviderClass{}, nil)
					if (err != nil) != fail || !fail && r.Tokens["aud"].Value != "t" {
						t.Errorf("%v", err)
					}
				})
			}
			work.Wait()
			if asked.Load() != want {
				t.Errorf("asked %d times, want %d", asked.Load(), want)
			}
		}
		fails = errors.New("away")
		all(1, true)
		all(2, true)
		fails = nil
		all(3, false)
		time.Sleep(7 * time.Minute)
		all(3, false)
		time.Sleep(2 * time.Minute)
		all(4, false)
		// the node's identity needs none, also where the Pod asks for it
		managed := map[string]string{"useVMManagedIdentity": "true"}
		r, err := a.Request(t.Context(), volume.Pod{Namespace: "shop", ServiceAccount: "other"}, &v1.SecretProviderClass{}, managed)
		if err != nil || len(r.Tokens) > 0 || asked.Load() != 4 {
			t.Errorf("%v, %d tokens", err, len(r.Tokens))
		}
	})
}
