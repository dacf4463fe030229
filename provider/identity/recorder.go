package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// The SDK flattens what its transport and policies returned into text. A recorder on the context keeps the last answer,
// or the error that came in its place.
type recorderKey struct{}

type recorder struct {
	err    error
	status int
	header http.Header
	body   []byte
	host   string
}

func withRecorder(ctx context.Context) (context.Context, *recorder) {
	r := &recorder{}
	return context.WithValue(ctx, recorderKey{}, r), r
}

// recorderPolicy fills the recorder, and refuses what the SDK would follow or take.
type recorderPolicy struct {
	// host is the only one that may be asked; empty where the SDK chooses.
	host string
}

// Do implements policy.Policy.
func (p recorderPolicy) Do(req *policy.Request) (*http.Response, error) {
	r, ok := req.Raw().Context().Value(recorderKey{}).(*recorder)
	if !ok {
		r = &recorder{}
	}
	*r = recorder{host: req.Raw().URL.Host}
	if !p.allows(r.host) {
		// the discovery document says where the SDK sends credentials
		r.err = &volume.Error{Reason: volume.ReasonUnavailable, Message: fmt.Sprintf(
			"%s names another host for token requests: check proxies on the way", p.host)}
		return nil, r.err
	}
	resp, err := req.Next()
	if err != nil {
		r.err = err
		return resp, err
	}
	r.status, r.header = resp.StatusCode, resp.Header
	body, err := runtime.Payload(resp)
	switch {
	case err != nil:
		r.err = err
	case resp.StatusCode >= http.StatusBadRequest:
		r.body = body
	case !isObject(body):
		return nil, errNoObject // the SDK panics at some of these
	}
	return resp, err
}

// allows returns whether a host may be asked: the authority, or one of its regional endpoints.
func (p recorderPolicy) allows(host string) bool {
	host = strings.ToLower(host)
	return p.host == "" || host == strings.ToLower(p.host) || strings.HasSuffix(host, ".login.microsoft.com")
}

var errNoObject = errors.New("the answer is not a JSON object")

// isObject returns whether a text is a JSON object.
func isObject(body []byte) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal(body, &object) == nil && object != nil
}
