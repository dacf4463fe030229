package emulator

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// givenKey is the body of a request that creates or updates a key.
type givenKey struct {
	given

	Kty            string   `json:"kty"`
	Crv            string   `json:"crv"`
	KeySize        int      `json:"key_size"`
	PublicExponent int64    `json:"public_exponent"`
	KeyOps         []string `json:"key_ops"`
}

// givenImport is the body of a request that imports a key.
type givenImport struct {
	given

	HSM bool      `json:"hsm"`
	Key *givenJWK `json:"key"`
}

// givenJWK is a JSON Web Key with its private part (RFC 7518, section 6).
type givenJWK struct {
	Kty    string   `json:"kty"`
	KeyOps []string `json:"key_ops"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	D      string   `json:"d"`
	P      string   `json:"p"`
	Q      string   `json:"q"`
	Crv    string   `json:"crv"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
}

// keyType is the type of a key without its protection, RSA or EC; empty for a type that vaults do not have.
func keyType(kty string) string {
	switch kind := strings.TrimSuffix(kty, "-HSM"); kind {
	case "RSA", "EC":
		return kind
	}
	return ""
}

// keySizes are the sizes that the service has, in bits.
func keySizes() []int { return []int{2048, 3072, 4096} }

func curveOf(name string) elliptic.Curve {
	switch name {
	case "P-256":
		return elliptic.P256()
	case "P-384":
		return elliptic.P384()
	case "P-521":
		return elliptic.P521()
	}
	return nil
}

// operationsOf are what the service lets keys of a type do.
func operationsOf(kty string) []string {
	switch keyType(kty) {
	case "RSA":
		return []string{"encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"}
	case "EC":
		return []string{"sign", "verify"}
	}
	return nil
}

// checkOperations refuses operations that keys of the type do not have.
func checkOperations(kty string, asked []string) *reply {
	supported := operationsOf(kty)
	var unknown []string
	for _, operation := range asked {
		if !slices.Contains(supported, operation) {
			unknown = append(unknown, strconv.Quote(operation))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	if len(unknown) > 10 {
		unknown = unknown[:10]
	}
	for i, operation := range supported {
		supported[i] = strconv.Quote(operation)
	}
	a := badParameter(fmt.Sprintf("Unsupported key operation(s): %s. Supported values are %s.",
		strings.Join(unknown, ", "), strings.Join(supported, ", ")))
	return &a
}

// checkKind refuses types, curves and sizes that vaults do not have.
func checkKind(kty, crv string, bits int) *reply {
	bad := func(message, inner string) *reply {
		a := refusal(http.StatusBadRequest, "BadParameter", message, inner)
		return &a
	}
	switch {
	case keyType(kty) == "":
		return bad("Invalid kty value: "+kty[:min(len(kty), 64)], "KeyTypeNotSupported")
	case keyType(kty) == "RSA" && !slices.Contains(keySizes(), bits):
		message := fmt.Sprintf("Unsupported key size (%d). Supported sizes are [2048, 3072, 4096]", bits)
		return bad(message, "KeySizeNotSupported")
	case keyType(kty) == "EC" && curveOf(crv) == nil:
		message := "Unsupported curve: " + crv[:min(len(crv), 64)] + ". The emulator has P-256, P-384 and P-521."
		return bad(message, "KeyCurveNotSupported")
	}
	return nil
}

// createKey makes a version of a key.
func (v *vaultState) createKey(c *call) (reply, slow) {
	var in givenKey
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	if in.KeySize == 0 {
		in.KeySize = 2048
	}
	if in.Crv == "" {
		in.Crv = "P-256"
	}
	if bad := checkKind(in.Kty, in.Crv, in.KeySize); bad != nil {
		return *bad, nil
	}
	if bad := checkOperations(in.Kty, in.KeyOps); bad != nil {
		return *bad, nil
	}
	switch {
	case in.PublicExponent != 0 && in.PublicExponent != 65537:
		return badParameter("Unsupported public exponent. The emulator makes keys with 65537."), nil
	case in.Attributes.Exportable != nil && *in.Attributes.Exportable:
		return badParameter("The emulator makes no exportable keys."), nil
	}
	if bad := in.check(); bad != nil {
		return *bad, nil
	}
	n := &version{operations: in.KeyOps}
	in.apply(n)
	return v.makeKey(c, in.Kty, in.Crv, in.KeySize, n)
}

// makeKey makes the key of a new version, without the lock, and adds the version.
func (v *vaultState) makeKey(c *call, kty, crv string, bits int, n *version) (reply, slow) {
	if bad := v.vacant(c.route); bad != nil {
		return *bad, nil
	}
	return reply{}, func() func() reply {
		private, err := newKey(kty, crv, bits)
		return func() reply {
			if err != nil {
				return refusal(http.StatusInternalServerError, "InternalError", "The key could not be made.", "")
			}
			return v.addPrivate(c, kty, private, n)
		}
	}
}

// addPrivate adds a version with a key.
func (v *vaultState) addPrivate(c *call, kty string, private crypto.Signer, n *version) reply {
	if bad := v.vacant(c.route); bad != nil {
		return *bad
	}
	jwk, err := jwkOf(private.Public(), kty)
	if err != nil {
		return refusal(http.StatusInternalServerError, "InternalError", "The key could not be made.", "")
	}
	n.jwk, n.private, n.public = jwk, private, private.Public()
	return v.answer(c, v.add("keys", c.name, n), n)
}

// importKey makes a version of a key from a JSON Web Key.
func (v *vaultState) importKey(c *call) (reply, slow) {
	var in givenImport
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	if bad := in.check(); bad != nil {
		return *bad, nil
	}
	const invalid = `The property "key" must be a valid JsonWebKey object.`
	if in.Key == nil {
		return badParameter(invalid), nil
	}
	if bad := checkOperations(in.Key.Kty, in.Key.KeyOps); keyType(in.Key.Kty) != "" && bad != nil {
		return *bad, nil
	}
	if bad := v.vacant(c.route); bad != nil {
		return *bad, nil
	}
	private, bits, err := in.Key.private()
	if bad := checkKind(in.Key.Kty, in.Key.Crv, bits); bad != nil {
		return *bad, nil
	}
	if err != nil {
		return badParameter(invalid), nil
	}
	kty := in.Key.Kty
	if in.HSM {
		kty = keyType(kty) + "-HSM"
	}
	n := &version{operations: in.Key.KeyOps}
	in.apply(n)
	return v.addPrivate(c, kty, private, n), nil
}

// private is the key, and the size of an RSA key although the key is not valid.
func (k *givenJWK) private() (key crypto.Signer, bits int, err error) {
	if keyType(k.Kty) == "EC" {
		key, err = k.privateEC()
		return key, 0, err
	}
	var numbers [5]*big.Int
	for i, text := range []string{k.N, k.E, k.D, k.P, k.Q} {
		if numbers[i], err = jwkNumber(text); err != nil {
			return nil, bits, err
		}
		if i == 0 {
			bits = numbers[0].BitLen()
		}
	}
	n, e, d, p, q := numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
	// Larger ones would take long to check.
	if !slices.Contains(keySizes(), bits) || e.BitLen() > 31 || max(d.BitLen(), p.BitLen(), q.BitLen()) > bits {
		return nil, bits, errors.New("the numbers are too large")
	}
	private := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: int(e.Int64())}, D: d, Primes: []*big.Int{p, q}}
	if err := private.Validate(); err != nil {
		return nil, bits, fmt.Errorf("rsa: %w", err)
	}
	private.Precompute()
	return private, bits, nil
}

func (k *givenJWK) privateEC() (crypto.Signer, error) {
	curve := curveOf(k.Crv)
	if curve == nil {
		return nil, fmt.Errorf("curve %q is not known", k.Crv)
	}
	d, err := jwkNumber(k.D)
	if err != nil {
		return nil, err
	}
	size := (curve.Params().BitSize + 7) / 8
	if d.BitLen() > 8*size {
		return nil, errors.New("d is too large")
	}
	private, err := ecdsa.ParseRawPrivateKey(curve, d.FillBytes(make([]byte, size)))
	if err != nil {
		return nil, fmt.Errorf("ec: %w", err)
	}
	jwk, err := jwkOf(private.Public(), "EC")
	if err != nil {
		return nil, err
	}
	for have, want := range map[string]string{k.X: jwk.X, k.Y: jwk.Y} {
		a, err := jwkNumber(have)
		b, _ := jwkNumber(want)
		if err != nil || a.Cmp(b) != 0 {
			return nil, errors.New("the public part is of another key")
		}
	}
	return private, nil
}

// jwkNumber reads a number as JSON Web Keys have it.
func jwkNumber(text string) (*big.Int, error) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil, fmt.Errorf("base64url: %w", err)
	}
	if len(raw) == 0 || len(raw) > 1024 {
		return nil, errors.New("a number is missing or too long")
	}
	return new(big.Int).SetBytes(raw), nil
}

// updateKey changes what a version has beside its key.
func (v *vaultState) updateKey(c *call) (reply, slow) {
	var in givenKey
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
	if in.KeyOps != nil {
		if bad := checkOperations(n.jwk.Kty, in.KeyOps); bad != nil {
			return *bad, nil
		}
		n.operations = in.KeyOps
	}
	in.apply(n)
	n.updated = v.now()
	return v.answer(c, o, n), nil
}

// rotateKey makes a version like the current one, which expires as the rotation policy says.
func (v *vaultState) rotateKey(c *call) (reply, slow) {
	o, current, missing := v.lookup(c.route)
	if missing != nil {
		return *missing, nil
	}
	if bad := checkKind(current.jwk.Kty, current.jwk.Crv, current.jwk.bits); bad != nil {
		return *bad, nil
	}
	n := &version{operations: current.operations, tags: current.tags}
	if o.rotation != nil && o.rotation.Attributes != nil {
		if d, ok := parseISODuration(o.rotation.Attributes.ExpiryTime); ok {
			n.expires = v.now().AddDate(d.years, d.months, d.days).Truncate(time.Second)
		}
	}
	return v.makeKey(c, current.jwk.Kty, current.jwk.Crv, current.jwk.bits, n)
}

// isoDuration is a duration of ISO 8601 in the parts that the service takes.
type isoDuration struct{ years, months, days int }

var isoDurationForm = regexp.MustCompile(`^P(?:(\d{1,3})Y)?(?:(\d{1,4})M)?(?:(\d{1,5})D)?$`)

// parseISODuration returns false for text that is none, and for an empty duration.
func parseISODuration(text string) (d isoDuration, ok bool) {
	match := isoDurationForm.FindStringSubmatch(text)
	if match == nil || text == "P" {
		return d, false
	}
	for i, into := range []*int{&d.years, &d.months, &d.days} {
		if match[i+1] != "" {
			*into, _ = strconv.Atoi(match[i+1]) // at most five digits
		}
	}
	return d, d != isoDuration{}
}

// atLeast reports whether the duration has as many days, by months of 30 days.
func (d isoDuration) atLeast(days int) bool { return d.years*365+d.months*30+d.days >= days }

// setRotationPolicy sets when a key is to be rotated. The emulator keeps it and does not rotate by itself.
func (v *vaultState) setRotationPolicy(c *call) (reply, slow) {
	var in rotationBody
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	o, _, missing := v.lookup(c.route)
	if missing != nil {
		return *missing, nil
	}
	if bad := c.unmanaged(o); bad != nil {
		return *bad, nil
	}
	set := &rotationBody{ID: v.url("keys", o.name) + "/rotationpolicy", Attributes: &rotationAttributes{}}
	if in.Attributes != nil && in.Attributes.ExpiryTime != "" {
		if d, ok := parseISODuration(in.Attributes.ExpiryTime); !ok || !d.atLeast(28) {
			return badParameter("The expiryTime of a rotation policy is a duration of ISO 8601 of at least 28 days."), nil
		}
		set.Attributes.ExpiryTime = in.Attributes.ExpiryTime
	}
	for _, action := range in.LifetimeActions {
		kept, ok := action.check()
		if !ok || slices.ContainsFunc(set.LifetimeActions, func(a rotationAction) bool { return a.Action == kept.Action }) {
			return badParameter("A rotation policy has at most one Rotate and one Notify, each with one trigger."), nil
		}
		set.LifetimeActions = append(set.LifetimeActions, kept)
	}
	if !slices.ContainsFunc(set.LifetimeActions, func(a rotationAction) bool { return a.Action.Type == "Notify" }) {
		set.LifetimeActions = append(set.LifetimeActions, defaultRotation().LifetimeActions...)
	}
	set.Attributes.Created, set.Attributes.Updated = stamp(v.now()), stamp(v.now())
	if o.rotation != nil && o.rotation.Attributes != nil {
		set.Attributes.Created = o.rotation.Attributes.Created
	}
	o.rotation = set
	return reply{status: http.StatusOK, body: set}, nil
}

// check returns the action as the service keeps it, and false where it is not valid.
func (a rotationAction) check() (rotationAction, bool) {
	switch {
	case strings.EqualFold(a.Action.Type, "Rotate"):
		a.Action.Type = "Rotate"
	case strings.EqualFold(a.Action.Type, "Notify"):
		a.Action.Type = "Notify"
	default:
		return a, false
	}
	if (a.Trigger.TimeAfterCreate == "") == (a.Trigger.TimeBeforeExpiry == "") {
		return a, false
	}
	d, ok := parseISODuration(a.Trigger.TimeAfterCreate + a.Trigger.TimeBeforeExpiry)
	return a, ok && d.atLeast(1)
}
