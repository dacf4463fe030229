package identity

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
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

// recorderPolicy fills the recorder.
type recorderPolicy struct{}

// Do implements policy.Policy.
func (recorderPolicy) Do(req *policy.Request) (*http.Response, error) {
	resp, err := req.Next()
	r, ok := req.Raw().Context().Value(recorderKey{}).(*recorder)
	if !ok {
		return resp, err
	}
	*r = recorder{err: err, host: req.Raw().URL.Host}
	if err != nil {
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

var errNoObject = errors.New("the answer is not a JSON object")

// isObject returns whether a text is a JSON object.
func isObject(body []byte) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal(body, &object) == nil && object != nil
}
