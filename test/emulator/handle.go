package emulator

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// Request is one line of the request log.
type Request struct {
	Time time.Time `json:"time"`
	Host string    `json:"host"`
	// Operation is such as "get secret", "list secrets", "token", "discovery", "connect" or "metadata token".
	// What is not a read is named by its method, such as "put secret", or by what a POST does, such as "backup secret".
	Operation string `json:"operation"`
	Method    string `json:"method,omitempty"`
	// Name is the object's name; for tokens, the client id.
	Name    string `json:"name,omitempty"`
	Version string `json:"version,omitempty"`
	// Caller is the client id that the token was for; empty where there was none.
	Caller string `json:"caller,omitempty"`
	Status int    `json:"status"`
	// Fault names the fault that was injected, if any.
	Fault string `json:"fault,omitempty"`
}

// reply is what a handler wants to answer. It is sent by handle, after the request's fault.
type reply struct {
	status int
	header map[string]string
	body   any // marshalled, unless it is []byte
}

// exchange is one request while it is handled.
type exchange struct {
	*http.Request
	// record is what the log will say.
	record Request
	// requestID is the answer's x-ms-request-id.
	requestID string
	// header has what all answers of the service have, faults too.
	header map[string]string
	// api is the version of the data plane that was asked for.
	api apiVersion
	// fault is the request's, once it is taken; delay is how long the answer is to wait.
	faultTaken bool
	fault      *Fault
	delay      time.Duration
}

// takeFault finds the request's fault, once.
func (x *exchange) takeFault(st *state) {
	if !x.faultTaken {
		x.fault, x.delay = st.fault(&x.record)
		x.faultTaken = true
	}
}

// handler answers an exchange. It sets the record's operation, name and version before it looks at anything else.
type handler func(*exchange) reply

// handle runs a handler, or the fault that replaces it, and logs the request.
func (s *Server) handle(w http.ResponseWriter, r *http.Request, h handler) {
	x := &exchange{
		Request: r, requestID: newID(),
		record: Request{Time: time.Now(), Host: hostname(r.Host), Method: r.Method},
	}
	answer := h(x)
	if err := s.persist(); err != nil {
		s.log.Error("what was changed is not kept", "error", err)
		answer = refusal(http.StatusInternalServerError, "InternalError", "The emulator cannot write its data directory.", "")
	}
	x.takeFault(s.state)
	f, delay := x.fault, x.delay
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
		}
	}
	x.record.Status = answer.status
	if f != nil {
		x.record.Fault = f.Kind
		answer = f.apply(answer)
		x.record.Status = answer.status
	}
	s.state.log(x.record)
	s.log.Info("request", "host", x.record.Host, "operation", x.record.Operation, "name", x.record.Name,
		"caller", x.record.Caller, "status", x.record.Status, "fault", x.record.Fault)
	if f != nil && f.interrupt(w, r, answer) {
		return
	}
	send(w, x, answer)
}

func send(w http.ResponseWriter, x *exchange, a reply) {
	body, ok := a.body.([]byte)
	if !ok && a.body != nil {
		body = marshal(a.body)
	}
	header := w.Header()
	if a.body != nil {
		header.Set("Content-Type", "application/json; charset=utf-8")
	}
	header.Set("X-Ms-Request-Id", x.requestID)
	for name, value := range x.header {
		header.Set(name, value)
	}
	for name, value := range a.header {
		header.Set(name, value)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body)
}

// marshal writes JSON as the services do, with & as it is.
func marshal(body any) []byte {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(body); err != nil {
		panic(err) // the bodies are ours
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
}

// newID returns a random UUID.
func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// newVersion returns a random object version: 32 hexadecimal digits.
func newVersion() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}
