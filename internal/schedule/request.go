package schedule

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// MaxSpread bounds the spread of a Request.
const MaxSpread = time.Hour

// Request asks for one refresh. It acts when it is seen for the first time, so that no two clocks need to agree.
type Request struct {
	// ID differs from request to request: 1 to 64 letters, digits and -._ that mean nothing.
	ID string
	// Spread is the time within which those that are asked follow, from the moment at which each sees the request.
	Spread time.Duration
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// String returns the text of the request, ID/SPREAD.
func (r Request) String() string { return r.ID + "/" + r.Spread.String() }

// ParseRequest reads the text of a request.
func ParseRequest(text string) (Request, error) {
	id, spread, _ := strings.Cut(text, "/")
	if !requestID.MatchString(id) {
		return Request{}, fmt.Errorf("%.80q is no request to refresh: write ID/SPREAD such as 7f3a/5s, the ID in 1 to 64 letters, digits and -._", text)
	}
	d, err := time.ParseDuration(spread)
	if err != nil || d < 0 || d > MaxSpread {
		return Request{}, fmt.Errorf("%.80q is no request to refresh: write ID/SPREAD such as 7f3a/5s, the spread from 0s to %s", text, MaxSpread)
	}
	return Request{ID: id, Spread: d}, nil
}
