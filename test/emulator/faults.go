package emulator

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault makes requests fail that match it.
type Fault struct {
	// ID is given by AddFault where it is empty.
	ID string `json:"id,omitempty" yaml:"id"`
	// Host, Operation and Name select requests; empty matches all. Operation may be the first word of one, such as "get".
	Host      string `json:"host,omitempty" yaml:"host"`
	Operation string `json:"operation,omitempty" yaml:"operation"`
	Name      string `json:"name,omitempty" yaml:"name"`
	// Kind is one of the Fault… constants.
	Kind string `json:"kind" yaml:"kind"`
	// Status is the status of FaultStatus, FaultConnect and FaultHTML.
	Status int `json:"status,omitempty" yaml:"status"`
	// Code and InnerCode are in the error body of FaultStatus.
	Code      string `json:"code,omitempty" yaml:"code"`
	InnerCode string `json:"innerCode,omitempty" yaml:"innerCode"`
	Message   string `json:"message,omitempty" yaml:"message"`
	// RetryAfter is in seconds; 0 sends no such header.
	RetryAfter int `json:"retryAfter,omitempty" yaml:"retryAfter"`
	// Delay is how long FaultLatency waits.
	Delay Duration `json:"delay,omitempty" yaml:"delay"`
	// Count is how many requests fail; 0 means all until the fault is removed.
	Count int `json:"count,omitempty" yaml:"count"`

	// seeded names the entry of the seed that the fault is of; empty for one that was added.
	seeded string
}

// The kinds of faults.
const (
	FaultThrottle  = "throttle"  // 429, with Retry-After where the fault has one
	FaultStatus    = "status"    // an error of the given status and code
	FaultLatency   = "latency"   // the answer, later
	FaultHang      = "hang"      // no answer until the client gives up
	FaultReset     = "reset"     // the connection breaks in the middle of the body
	FaultTruncated = "truncated" // JSON that ends too early
	FaultHTML      = "html"      // a proxy's HTML page
	FaultEmpty     = "empty"     // 200 with no body
	FaultChallenge = "challenge" // 401 with the challenge, as for a token that the service does not like
	FaultClaims    = "claims"    // 401 that asks for a token with claims (continuous access evaluation)
	FaultFailover  = "failover"  // the vault is read-only, as while it is served from the paired region: 503 for what changes it
	FaultConnect   = "connect"   // CONNECT is refused with the given status
)

// faultKinds are the kinds with what each of them needs.
var faultKinds = map[string]func(*Fault) string{
	FaultThrottle: nil,
	FaultStatus: func(f *Fault) string {
		if f.Status == 0 {
			return "status is missing"
		}
		return ""
	},
	FaultLatency: func(f *Fault) string {
		if f.Delay <= 0 {
			return "delay is missing"
		}
		return ""
	},
	FaultHang:      nil,
	FaultReset:     nil,
	FaultTruncated: nil,
	FaultHTML:      nil,
	FaultEmpty:     nil,
	FaultChallenge: nil,
	FaultClaims:    nil,
	FaultFailover:  nil,
	FaultConnect:   nil,
}

// operationForm is how the operations of the request log begin.
var operationForm = regexp.MustCompile(
	`^(get|list|put|post|patch|delete|head|options|backup|restore|recover|create|import|merge|rotate|sign|verify|` +
		`encrypt|decrypt|wrapkey|unwrapkey|token|discovery|openid|metadata|connect|unknown)\b`)

// Validate returns what is wrong with a fault, in one line.
func (f *Fault) Validate() error {
	needs, known := faultKinds[f.Kind]
	switch {
	case f.Kind == "":
		return fmt.Errorf("fault: kind is missing: one of %s", strings.Join(slices.Sorted(maps.Keys(faultKinds)), ", "))
	case !known:
		return fmt.Errorf("fault: unknown kind %q: one of %s", f.Kind, strings.Join(slices.Sorted(maps.Keys(faultKinds)), ", "))
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("fault %s: status %d is not between 200 and 599", f.Kind, f.Status)
	case f.Count < 0, f.RetryAfter < 0, f.Delay < 0:
		return fmt.Errorf("fault %s: count, retryAfter and delay are not negative", f.Kind)
	case f.Operation != "" && !operationForm.MatchString(f.Operation):
		return fmt.Errorf("fault %s: unknown operation %q: such as get, list, \"get secret\", token, discovery or \"metadata token\"",
			f.Kind, f.Operation)
	}
	if needs != nil {
		if what := needs(f); what != "" {
			return fmt.Errorf("fault %s: %s", f.Kind, what)
		}
	}
	return nil
}

// Duration is a time.Duration that is written like 20ms.
type Duration time.Duration

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration: %w", err)
	}
	*d = Duration(parsed)
	return nil
}

// MarshalText writes a duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// apply returns the answer that the client gets instead.
func (f *Fault) apply(a reply) reply {
	header := map[string]string{}
	if f.RetryAfter > 0 {
		header["Retry-After"] = strconv.Itoa(f.RetryAfter)
	}
	switch f.Kind {
	case FaultThrottle:
		return reply{status: http.StatusTooManyRequests, header: header, body: problem("Throttled",
			"Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached", "")}
	case FaultStatus:
		return reply{status: f.Status, header: header, body: problem(f.Code, f.Message, f.InnerCode)}
	case FaultFailover:
		return reply{status: http.StatusServiceUnavailable, header: header, body: problem("ServiceUnavailable", f.Message, "")}
	case FaultHTML:
		header["Content-Type"] = "text/html"
		status := f.Status
		if status == 0 {
			status = http.StatusBadGateway
		}
		return reply{status: status, header: header, body: []byte("<html><body><h1>" + http.StatusText(status) + "</h1></body></html>")}
	case FaultEmpty:
		return reply{status: http.StatusOK, body: []byte{}}
	case FaultTruncated:
		return reply{status: http.StatusOK, body: []byte(`{"value":"cut off in the mid`)}
	case FaultChallenge:
		return challenge("", "AKV10022: Invalid audience.")
	case FaultClaims:
		a := challenge("", "Continuous access evaluation resulted in challenge with result: InteractionRequired")
		claims := base64.StdEncoding.EncodeToString([]byte(`{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}`))
		a.header["WWW-Authenticate"] += `, error="insufficient_claims", claims="` + claims + `"`
		return a
	}
	return a
}

// prevents reports whether the fault is an answer of the service, or of a proxy before it, that did not do what
// it was asked to do. With the others it is done, and the answer is late or lost.
func (f *Fault) prevents() bool {
	switch f.Kind {
	case FaultThrottle, FaultStatus, FaultFailover, FaultHTML, FaultChallenge, FaultClaims:
		return true
	}
	return false
}

// interrupt does what no answer can; it returns false where the answer is to be sent.
func (f *Fault) interrupt(w http.ResponseWriter, r *http.Request, _ reply) bool {
	switch f.Kind {
	case FaultHang:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case FaultReset:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "4096")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write([]byte(`{"value":"`))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	return false
}

// changes are the first words of operations that change a vault, with the service's names for them.
var changes = map[string]string{
	"put": "Set", "patch": "Update", "delete": "Delete", "recover": "Recover", "restore": "Restore", "create": "Create",
	"import": "Import", "merge": "Merge", "rotate": "Rotate",
}

// changeName is what the service calls an operation that changes a vault, such as SecretSet; empty for others.
func changeName(operation string) string {
	verb, noun, _ := strings.Cut(operation, " ")
	change := changes[verb]
	noun, deleted := strings.CutPrefix(noun, "deleted ")
	switch kind, side, _ := strings.Cut(noun, " "); {
	case change == "" || !slices.Contains(slices.Collect(maps.Values(singular)), kind):
		return ""
	case verb == "delete" && deleted:
		change = "Purge"
	case verb == "put" && noun == "key":
		change = "Import"
	case side != "":
		for word := range strings.FieldsSeq(side) {
			kind += strings.ToUpper(word[:1]) + word[1:]
		}
		noun = kind
	}
	noun, _, _ = strings.Cut(noun, " ")
	return strings.ToUpper(noun[:1]) + noun[1:] + change
}
