package emulator

import (
	"fmt"
	"net/http"
	"unicode/utf8"
)

// givenSecret is the body of a request that sets or updates a secret.
type givenSecret struct {
	given

	Value       *string `json:"value"`
	ContentType *string `json:"contentType"`
}

func (g *givenSecret) check() *reply {
	if g.ContentType != nil && utf8.RuneCountInString(*g.ContentType) > maxContentType {
		a := badParameter(fmt.Sprintf("The content type is at most %d characters long.", maxContentType))
		return &a
	}
	return g.given.check()
}

// setSecret makes a version of a secret.
func (v *vaultState) setSecret(c *call) (reply, slow) {
	var in givenSecret
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	switch {
	case in.Value == nil:
		return malformed(), nil
	case len(*in.Value) > maxSecret:
		return badParameter(fmt.Sprintf("Secret is beyond the maximum permitted length of %d characters.", maxSecret)), nil
	}
	if bad := in.check(); bad != nil {
		return *bad, nil
	}
	if bad := v.vacant(c.route); bad != nil {
		return *bad, nil
	}
	n := &version{value: *in.Value}
	if in.ContentType != nil {
		n.contentType = *in.ContentType
	}
	in.apply(n)
	o := v.add("secrets", c.name, n)
	return reply{status: http.StatusOK, body: v.render("secrets", o, n, shape{api: c.api, versioned: true})}, nil
}

// updateSecret changes what a version has beside its value.
func (v *vaultState) updateSecret(c *call) (reply, slow) {
	var in givenSecret
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	if bad := in.check(); bad != nil {
		return *bad, nil
	}
	o, n, missing := v.lookup(c.route)
	if missing != nil {
		return *missing, nil
	}
	if in.ContentType != nil {
		n.contentType = *in.ContentType
	}
	in.apply(n)
	n.updated = v.now()
	return v.answer(c, o, n), nil
}
