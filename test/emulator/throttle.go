package emulator

import (
	"math"
	"net/http"
	"strings"
	"time"
)

// throttleWindow is the time that the service's limits are for.
const throttleWindow = 10 * time.Second

// The classes of requests that the service limits.
const (
	classOther  = "other"  // secrets, certificates, and what software keys do
	classHSM    = "hsm"    // what keys in an HSM do
	classNew    = "new"    // secrets that are set, and keys and certificates that are imported, together
	classCreate = "create" // keys that are made
)

// limits are how many requests of a class a vault takes in a window, as the service's documentation has them.
var limits = map[string]int{classOther: 4000, classHSM: 2000, classNew: 300, classCreate: 20}

// budget is what a vault has used of its limits since a window began.
type budget struct {
	began time.Time
	used  map[string]int
}

// charge counts a request, and returns the answer where it is one too many. The window begins with its first request,
// and what is refused does not count. The caller holds the lock.
func (v *vaultState) charge(r route, method, operation string) *reply {
	class, weight := v.class(r, method, operation)
	now := v.now()
	if v.budget.used == nil || now.Sub(v.budget.began) >= throttleWindow || now.Before(v.budget.began) {
		v.budget = budget{began: now, used: map[string]int{}}
	}
	if v.budget.used[class]+weight > limits[class] {
		f := Fault{Kind: FaultThrottle, RetryAfter: int(math.Ceil((throttleWindow - now.Sub(v.budget.began)).Seconds()))}
		a := f.apply(reply{status: http.StatusTooManyRequests})
		return &a
	}
	v.budget.used[class] += weight
	return nil
}

// class is which limit a request counts for, and how much of it.
func (v *vaultState) class(r route, method, operation string) (class string, weight int) {
	verb, _, _ := strings.Cut(operation, " ")
	switch {
	case r.side == "" && (method == http.MethodPut && (r.kind == "secrets" || r.kind == "keys") || verb == "import"):
		return classNew, 1
	case r.kind != "keys" || r.list || r.deleted:
		return classOther, 1
	}
	o, err := v.find("keys", r.name)
	if verb == "create" || verb == "rotate" {
		if err == nil && verb == "rotate" && o.current().jwk != nil && strings.HasSuffix(o.current().jwk.Kty, "-HSM") {
			return classCreate, 2 // 10 of a key in an HSM
		}
		return classCreate, 1
	}
	if err != nil || o.current().jwk == nil {
		return classOther, 1
	}
	class, weight = classOther, 1
	jwk := o.current().jwk
	if strings.HasSuffix(jwk.Kty, "-HSM") {
		class = classHSM
	}
	switch { // 1,000 and 500 where RSA 2048 has 4,000; half of each in an HSM
	case !strings.HasPrefix(jwk.Kty, "RSA"):
	case jwk.bits >= 4096:
		weight = 8
	case jwk.bits >= 3072:
		weight = 4
	}
	return class, weight
}
