package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// askCluster asks the API server of the Pod's own cluster for its issuer and keys (OpenID Connect Discovery 1.0, RFC
// 7517). Every ServiceAccount may.
func askCluster(ctx context.Context) (emulator.Issuer, error) {
	client, server, err := inCluster()
	if err != nil {
		return emulator.Issuer{}, err
	}
	return discover(ctx, client, server)
}

// inCluster returns a client of the API server of the Pod's own cluster, and the server's URL.
func inCluster() (*http.Client, string, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, "", fmt.Errorf("this is for a Pod: %w", err)
	}
	config.Proxy = nil
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, "", fmt.Errorf("client: %w", err)
	}
	return client, config.Host, nil
}

// secretBody is what is read and written of a Secret.
type secretBody struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Data map[string][]byte `json:"data"`
}

// The keys of the Secret that has an authority.
const (
	certificateKey = "ca.crt"
	privateKey     = "ca.key"
)

// clusterAuthority returns the authority of a Secret, NAMESPACE/NAME. Where the Secret has none that is valid, one is made and put there, unless
// another emulator does so at the same time.
func clusterAuthority(ctx context.Context, client *http.Client, server, secret string) (certificate, key []byte, err error) {
	namespace, name, ok := strings.Cut(secret, "/")
	if !ok || !dnsName.MatchString(namespace) || !dnsName.MatchString(name) {
		return nil, nil, fmt.Errorf("%q does not name a Secret: write NAMESPACE/NAME", secret)
	}
	url := server + "/api/v1/namespaces/" + namespace + "/secrets/" + name
	for range 5 {
		text, err := get(ctx, client, url)
		if err != nil {
			return nil, nil, fmt.Errorf("secret %s must exist, and the Pod may get and patch it: %w", secret, err)
		}
		var found secretBody
		if err := json.Unmarshal(text, &found); err != nil {
			return nil, nil, fmt.Errorf("secret %s: %w", secret, err)
		}
		if emulator.CheckAuthority(found.Data[certificateKey], found.Data[privateKey]) == nil {
			return found.Data[certificateKey], found.Data[privateKey], nil
		}
		if certificate, key, err = emulator.NewAuthority(); err != nil {
			return nil, nil, err
		}
		found.Data = map[string][]byte{certificateKey: certificate, privateKey: key}
		patch, err := json.Marshal(found)
		if err != nil {
			return nil, nil, fmt.Errorf("secret %s: %w", secret, err)
		}
		_, err = send(ctx, client, http.MethodPatch, url, patch)
		if status, ok := errors.AsType[statusError](err); ok && status.code == http.StatusConflict {
			continue // it has changed meanwhile
		}
		if err != nil {
			return nil, nil, fmt.Errorf("secret %s: %w", secret, err)
		}
		return certificate, key, nil
	}
	return nil, nil, fmt.Errorf("secret %s changes all the time: let one emulator use it", secret)
}

// dnsName is what namespaces and Secrets are called.
var dnsName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,251}[a-z0-9]$|^[a-z0-9]$`)

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

// statusError is an answer of the API server that is no success.
type statusError struct {
	url, status string
	code        int
}

// Error implements error.
func (e statusError) Error() string { return e.url + ": " + e.status }

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	return send(ctx, client, http.MethodGet, url, nil)
}

// send makes a request of the API server; a body is a JSON merge patch (RFC 7396).
func send(ctx context.Context, client *http.Client, method, url string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask the API server: %w", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the API server: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, statusError{url: url, status: answer.Status, code: answer.StatusCode}
	}
	return text, nil
}
