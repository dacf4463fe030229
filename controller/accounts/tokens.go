package accounts

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/keylock"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// tokenLife is what is asked for, in seconds: the least that the API server gives.
	tokenLife = 600
	// mostTokens bounds the tokens that are kept.
	mostTokens = 4096
)

// tokens asks the API server for tokens of service accounts, and keeps each until four fifths of its life are over.
type tokens struct {
	client client.Client
	clock  clock.PassiveClock
	// asking is held while a token is asked for: who waits for it gets the same answer.
	asking keylock.Locks[tokenKey]

	mu   sync.Mutex
	kept map[tokenKey]keptToken
}

type tokenKey struct{ namespace, account, audience string }

type keptToken struct {
	token volume.Token
	until time.Time
	// err is why there is no token; it was asked for at failedAt.
	err      error
	failedAt time.Time
}

// get returns a token. Errors are of type *volume.Error.
func (t *tokens) get(ctx context.Context, namespace, account, audience string) (volume.Token, error) {
	key := tokenKey{namespace, account, audience}
	wanted := t.clock.Now()
	if token, ok, _ := t.known(key, wanted); ok {
		return token, nil
	}
	release, err := t.asking.Acquire(ctx, key)
	if err != nil {
		return volume.Token{}, &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf(
			"the API server gave no token of service account %s/%s in time: it is asked again", namespace, account)}
	}
	defer release()
	if token, ok, err := t.known(key, wanted); ok || err != nil {
		return token, err
	}
	token, err := t.ask(ctx, namespace, account, audience)
	switch {
	case err == nil:
		now := t.clock.Now()
		t.keep(key, keptToken{token: token, until: now.Add(token.Expires.Sub(now) * 4 / 5)})
	case ctx.Err() == nil:
		t.keep(key, keptToken{err: err, failedAt: t.clock.Now()})
	}
	return token, err
}

// ask requests a token.
func (t *tokens) ask(ctx context.Context, namespace, account, audience string) (volume.Token, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{audience}, ExpirationSeconds: new(int64(tokenLife)),
	}}
	of := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}
	err := t.client.SubResource("token").Create(ctx, of, request)
	switch {
	case apierrors.IsNotFound(err):
		return volume.Token{}, &volume.Error{Reason: volume.ReasonIdentity, Cause: err, Message: fmt.Sprintf(
			"service account %s/%s does not exist: create it, or correct serviceAccountName", namespace, account)}
	case apierrors.IsForbidden(err):
		return volume.Token{}, &volume.Error{Reason: volume.ReasonIdentity, Cause: err, Message: fmt.Sprintf(
			"the API server refuses the controller a token of service account %s/%s: ask the controller's operator for the namespace and the "+
				"audience %s", namespace, account, audience)}
	case err != nil:
		return volume.Token{}, &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf(
			"the API server gave no token of service account %s/%s: it is asked again", namespace, account)}
	}
	return volume.Token{Value: request.Status.Token, Expires: request.Status.ExpirationTimestamp.Time}, nil
}

// known returns the token that is kept, or why one that was asked for since it was wanted is refused.
func (t *tokens) known(key tokenKey, wanted time.Time) (token volume.Token, ok bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.kept[key]
	if kept.err != nil && kept.failedAt.After(wanted) {
		err = kept.err
	}
	return kept.token, t.clock.Now().Before(kept.until), err
}

func (t *tokens) keep(key tokenKey, token keptToken) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.kept) >= mostTokens {
		now := t.clock.Now()
		for other, kept := range t.kept {
			if !now.Before(kept.until) {
				delete(t.kept, other)
			}
		}
		if len(t.kept) >= mostTokens {
			clear(t.kept)
		}
	}
	t.kept[key] = token
}
