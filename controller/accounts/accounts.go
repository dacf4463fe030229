// Package accounts acts as service accounts: it makes the requests to a provider that a Pod of an account would make, with tokens that the
// API server gives for it (TokenRequest).
package accounts

import (
	"context"
	"strconv"
	"strings"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// Accounts makes requests in the name of service accounts. All features of the controller share one, and with it the tokens.
type Accounts struct {
	tokens    tokens
	audiences []string
}

// New returns an Accounts that requests tokens of these audiences.
func New(c client.Client, clk clock.PassiveClock, audiences []string) *Accounts {
	return &Accounts{tokens: tokens{client: c, clock: clk, kept: map[tokenKey]keptToken{}}, audiences: audiences}
}

// Request returns what the Pod would ask for with the class. Attributes are its volumeAttributes that override parameters of the class; may
// be nil. The Pod needs no name: only namespace and service account count. Errors are of type *volume.Error.
func (a *Accounts) Request(
	ctx context.Context, pod volume.Pod, c *v1.SecretProviderClass, attributes map[string]string,
) (volume.Request, error) {
	r := volume.Request{
		Pod: pod, Provider: c.Spec.Provider, Parameters: c.Spec.Parameters, Attributes: attributes, Tokens: map[string]volume.Token{},
	}
	if managed(class.Merge(c.Spec.Parameters, attributes)) {
		return r, nil // no token of the account is needed
	}
	for _, audience := range a.audiences {
		token, err := a.tokens.get(ctx, pod.Namespace, pod.ServiceAccount, audience)
		if err != nil {
			return r, err
		}
		r.Tokens[audience] = token
	}
	return r, nil
}

// managed reports whether a managed identity is used, which needs no token.
func managed(parameters map[string]string) bool {
	on, err := strconv.ParseBool(strings.TrimSpace(parameters["useVMManagedIdentity"]))
	return err == nil && on
}
