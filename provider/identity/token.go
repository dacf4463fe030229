package identity

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

const (
	// ahead is how long before its end a token is renewed, or a tenth of its life where that is shorter.
	ahead = 5 * time.Minute
	// patience is how long a caller waits for a renewal while it holds a token that still serves.
	patience = 5 * time.Second
	// pauseAfterFailure is how long a token serves as it is after it could not be renewed.
	pauseAfterFailure = 30 * time.Second
)

// GetToken implements azcore.TokenCredential. Callers that want the same token share one request. A challenge's tenant
// is not passed on: the identity's own counts.
func (i *Identity) GetToken(ctx context.Context, opts policy.TokenRequestOptions) (azcore.AccessToken, error) {
	scope := scopeOf(opts)
	cached, fresh := i.cached(scope)
	if fresh && opts.Claims == "" {
		return cached, nil
	}
	opts.TenantID = ""
	start := i.registry.options.Clock.Now()
	defer func(ctx context.Context) { noteWait(ctx, i.registry.options.Clock.Since(start)) }(ctx)
	usable := cached.Token != "" && opts.Claims == ""
	if usable {
		// it serves until it expires, so a caller does not wait long for a newer one
		bounded, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		ctx = bounded
	}
	key := tokenKey{identity: i, scope: scope, claims: opts.Claims}
	token, _, err := i.registry.tokens.Do(ctx, key, func(ctx context.Context) (azcore.AccessToken, error) {
		return i.request(ctx, scope, opts)
	})
	if err != nil && usable && !errors.Is(ctx.Err(), context.Canceled) {
		return i.postpone(scope, cached, err)
	}
	return token, i.late(err)
}

// postpone gives a token that could not be renewed, and lets others use it for a while without trying.
func (i *Identity) postpone(scope string, cached azcore.AccessToken, cause error) (azcore.AccessToken, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	have, ok := i.tokens[scope]
	if !ok {
		return azcore.AccessToken{}, cause
	}
	if have.Token == cached.Token {
		i.retry = i.registry.options.Clock.Now().Add(pauseAfterFailure)
	}
	return have, nil
}

// cached returns the token for the scope; fresh is false where it should be renewed.
func (i *Identity) cached(scope string) (token azcore.AccessToken, fresh bool) {
	now := i.registry.options.Clock.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.used = now
	token, ok := i.tokens[scope]
	if !ok || !now.Before(token.ExpiresOn) {
		return azcore.AccessToken{}, false
	}
	return token, now.Before(token.RefreshOn) || now.Before(i.retry)
}

// request asks for a token and keeps it.
func (i *Identity) request(
	ctx context.Context,
	scope string,
	opts policy.TokenRequestOptions,
) (azcore.AccessToken, error) {
	start := i.registry.options.Clock.Now()
	ctx, end := i.span(ctx)
	token, err := i.ask(ctx, opts)
	end(err)
	if observe := i.registry.options.Observe; observe != nil {
		observe(i.method.name(), err, i.registry.options.Clock.Since(start))
	}
	if err != nil {
		return azcore.AccessToken{}, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	life := token.ExpiresOn.Sub(i.registry.options.Clock.Now())
	if renew := token.ExpiresOn.Add(-min(ahead, life/10)); token.RefreshOn.IsZero() || renew.Before(token.RefreshOn) {
		token.RefreshOn = renew
	}
	if i.tokens == nil {
		i.tokens = map[string]azcore.AccessToken{}
	}
	i.tokens[scope] = token
	return token, nil
}

func (i *Identity) ask(ctx context.Context, opts policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if err := i.method.ready(i.registry.options.Clock.Now()); err != nil {
		return azcore.AccessToken{}, err
	}
	credential, err := i.sdk()
	if err != nil {
		return azcore.AccessToken{}, err
	}
	ctx, seen := withRecorder(ctx)
	// the vault's request waits on the same context, and its caller may capture answers: this one is not for it
	var own *http.Response
	ctx = policy.WithCaptureResponse(ctx, &own)
	token, err := credential.GetToken(ctx, opts)
	if err != nil {
		return azcore.AccessToken{}, i.explain(err, seen)
	}
	return token, nil
}

// Renew returns a token that was issued after the refused one. It asks Entra ID only where the identity still has the
// refused token, and returns that one where its tokens cannot be renewed before their end. Until a newer token is
// there, the identity keeps the one that it has: one vault's refusal says nothing about other vaults.
func (i *Identity) Renew(
	ctx context.Context,
	opts policy.TokenRequestOptions,
	refused string,
) (azcore.AccessToken, error) {
	scope := scopeOf(opts)
	have, _ := i.cached(scope)
	if have.Token != "" && (have.Token != refused || !i.method.renewable()) {
		return have, nil
	}
	opts.TenantID = ""
	key := tokenKey{identity: i, scope: scope, renews: i.registry.hash(refused)}
	token, _, err := i.registry.tokens.Do(ctx, key, func(ctx context.Context) (azcore.AccessToken, error) {
		i.mu.Lock()
		i.credential = nil // the SDK's object would give the same token from its cache
		i.mu.Unlock()
		return i.request(ctx, scope, opts)
	})
	return token, i.late(err)
}

func scopeOf(opts policy.TokenRequestOptions) string {
	if len(opts.Scopes) != 1 {
		return ""
	}
	return opts.Scopes[0]
}
