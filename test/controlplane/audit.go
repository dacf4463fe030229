package controlplane

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"time"
)

// AuditEvent is one request that the API server has answered.
type AuditEvent struct {
	AuditID    string `json:"auditID"`
	Stage      string `json:"stage"`
	Verb       string `json:"verb"`
	RequestURI string `json:"requestURI"`
	UserAgent  string `json:"userAgent"`
	User       struct {
		Username string              `json:"username"`
		Extra    map[string][]string `json:"extra"`
	} `json:"user"`
	ObjectRef struct {
		Resource    string `json:"resource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
		APIGroup    string `json:"apiGroup"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code    int    `json:"code"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
	} `json:"responseStatus"`
	Received    time.Time         `json:"requestReceivedTimestamp"`
	Annotations map[string]string `json:"annotations"`
}

// String is the event in a few words, such as "patch secrets shop/db: 200".
func (e AuditEvent) String() string {
	what := e.ObjectRef.Resource
	if e.ObjectRef.Subresource != "" {
		what += "/" + e.ObjectRef.Subresource
	}
	status, _ := json.Marshal(e.ResponseStatus.Code)
	return e.Verb + " " + what + " " + e.ObjectRef.Namespace + "/" + e.ObjectRef.Name + ": " + string(status)
}

// Requests are the requests of clients whose user agent begins with a prefix, in the order in which they were answered;
// a watch counts when it begins. An answer may arrive a little before its line in the log: wait for what must come, and
// count after a request of one's own.
func (c *ControlPlane) Requests(userAgentPrefix string) []AuditEvent {
	c.Helper()
	c.NeedsOwn("it reads the audit log of the API server")
	data, err := os.ReadFile(c.path("audit.log"))
	c.must(err)
	var events []AuditEvent
	seen := map[string]bool{}
	agent := []byte(`"userAgent":"` + userAgentPrefix)
	for line := range bytes.Lines(data) {
		if !bytes.Contains(line, agent) {
			continue // most of a long log: not worth to be decoded
		}
		var e AuditEvent
		if json.Unmarshal(line, &e) != nil {
			continue // a line that is being written
		}
		if strings.HasPrefix(e.UserAgent, userAgentPrefix) && !seen[e.AuditID] {
			seen[e.AuditID] = true
			events = append(events, e)
		}
	}
	return events
}
