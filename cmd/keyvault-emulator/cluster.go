package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// askCluster asks the API server of the Pod's own cluster for its issuer and keys (OpenID Connect Discovery 1.0, RFC
// 7517). Every ServiceAccount may.
func askCluster(ctx context.Context) (emulator.Issuer, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return emulator.Issuer{}, fmt.Errorf("this is for a Pod: %w", err)
	}
	config.Proxy = nil
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return emulator.Issuer{}, fmt.Errorf("client: %w", err)
	}
	return discover(ctx, client, config.Host)
}

// discover reads an issuer and its keys from an API server.
func discover(ctx context.Context, client *http.Client, server string) (emulator.Issuer, error) {
	var found struct {
		Issuer string `json:"issuer"`
	}
	document, err := get(ctx, client, server+"/.well-known/openid-configuration")
	if err != nil {
		return emulator.Issuer{}, err
	}
	if err := json.Unmarshal(document, &found); err != nil {
		return emulator.Issuer{}, fmt.Errorf("discovery document: %w", err)
	}
	if found.Issuer == "" {
		return emulator.Issuer{}, errors.New("discovery document: no issuer")
	}
	// its jwks_uri may name a host that only Azure reaches
	keys, err := get(ctx, client, server+"/openid/v1/jwks")
	if err != nil {
		return emulator.Issuer{}, err
	}
	return emulator.Issuer{Issuer: found.Issuer, JWKS: string(keys)}, nil
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask the API server: %w", err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the API server: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return body, nil
}
