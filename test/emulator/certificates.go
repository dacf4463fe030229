package emulator

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// givenCertificate is the body of a request that creates, imports, merges or updates a certificate.
type givenCertificate struct {
	given

	Policy *givenPolicy `json:"policy"`
	// Value and Password are an import's.
	Value    string `json:"value"`
	Password string `json:"pwd"`
	// X5C is a merge's: the certificate and its issuers.
	X5C [][]byte `json:"x5c"`
}

// certificateSet is one version of a certificate with those of its secret and its key.
type certificateSet struct {
	certificate, secret, key *version
}

func (s *certificateSet) all() []*version { return []*version{s.certificate, s.secret, s.key} }

// operation is how a certificate is made that was asked for.
type operation struct {
	id     string
	issuer string
	csr    []byte
	set    *certificateSet
	// attached is true where the versions are those of the object already, as those of its first version are.
	attached bool
	// ready is when a self-signed one is issued; zero for one that awaits a merge.
	ready     time.Time
	cancelled bool
	done      bool
	// disabled is true where the certificate is to be disabled when it is issued.
	disabled bool
}

// makeSet makes the versions of a certificate from its parts.
func (v *vaultState) makeSet(name string, p *certificatePolicy, m *material, in *given) (*certificateSet, error) {
	leaf := m.chain[0]
	jwk, err := jwkOf(leaf.PublicKey, p.KeyProps.Kty)
	if err != nil {
		return nil, err
	}
	common := version{
		id:            newVersion(),
		notBefore:     leaf.NotBefore,
		expires:       leaf.NotAfter,
		managed:       true,
		jwk:           jwk,
		notExportable: !p.KeyProps.Exportable,
	}
	common.disabled = in.Attributes.Enabled != nil && !*in.Attributes.Enabled
	certificate, secret, key := common, common, common
	certificate.der, certificate.csr, certificate.contentType = leaf.Raw, m.csr, p.SecretProps.ContentType
	certificate.tags = in.Tags
	key.private, key.public = m.private, leaf.PublicKey
	secret.contentType, secret.kid = p.SecretProps.ContentType, v.url("keys", name)+"/"+common.id
	var exported crypto.Signer
	if p.KeyProps.Exportable {
		exported = m.private
	}
	if secret.value, err = secretOf(p.SecretProps.ContentType, m.chain, exported); err != nil {
		return nil, err
	}
	return &certificateSet{certificate: &certificate, secret: &secret, key: &key}, nil
}

// addSet adds the versions, made now.
func (v *vaultState) addSet(name string, s *certificateSet) *object {
	now := v.now()
	for _, n := range s.all() {
		n.created = now
	}
	o := v.add("certificates", name, s.certificate)
	v.add("secrets", name, s.secret)
	v.add("keys", name, s.key)
	return o
}

// vacantCertificate reports why a certificate of a name cannot be made.
func (v *vaultState) vacantCertificate(c *call) *reply {
	if bad := v.vacant(c.route); bad != nil {
		return bad
	}
	for _, kind := range []string{"secrets", "keys"} {
		if o, err := v.find(kind, c.name); err == nil && !o.current().managed {
			message := fmt.Sprintf("A %s with the name %s already exists in this key vault: a certificate's would take its place.",
				singular[kind], o.name)
			a := refusal(http.StatusConflict, "Conflict", message, "")
			return &a
		}
	}
	o, err := v.find("certificates", c.name)
	if err != nil || o.operation == nil || o.operation.done || o.operation.cancelled {
		return nil
	}
	a := refusal(http.StatusConflict, "Forbidden", "A new key vault certificate can not be created or imported while a pending "+
		"key vault certificate's status is inProgress.", "")
	return &a
}

// createCertificate asks for a certificate: the vault signs it itself, or gives out a request for a merge.
func (v *vaultState) createCertificate(c *call) (reply, slow) {
	var in givenCertificate
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	if bad := in.check(); bad != nil {
		return *bad, nil
	}
	if bad := v.vacantCertificate(c); bad != nil {
		return *bad, nil
	}
	policy := defaultPolicy()
	var reused crypto.Signer
	if o, err := v.find("certificates", c.name); err == nil {
		if in.Policy == nil {
			policy = v.policy(o, o.current())
		}
		if key, err := v.find("keys", c.name); err == nil {
			reused = key.current().private
		}
	} else if in.Policy == nil {
		return badParameter("The policy of a new certificate is missing."), nil
	}
	if bad := in.Policy.over(policy); bad != nil {
		return *bad, nil
	}
	if bad := v.checkCreate(policy); bad != nil {
		return *bad, nil
	}
	now := v.now()
	return reply{}, func() func() reply {
		if !policy.KeyProps.ReuseKey || reused != nil && !policy.KeyProps.fits(reused) {
			reused = nil
		}
		m, err := policy.makeMaterial(reused, now)
		return func() reply {
			if err != nil {
				return badParameter("The certificate could not be made: " + err.Error())
			}
			return v.startOperation(c, policy, m, &in.given)
		}
	}
}

// checkCreate refuses policies that the vault cannot make a certificate by.
func (v *vaultState) checkCreate(p *certificatePolicy) *reply {
	if bad := checkKind(p.KeyProps.Kty, p.KeyProps.Crv, p.KeyProps.KeySize); bad != nil {
		return bad
	}
	bad := func(message string) *reply {
		a := badParameter(message)
		return &a
	}
	switch name := p.Issuer.Name; {
	case name == "":
		return bad("The issuer of the policy is missing.")
	case p.X509Props.Subject == "" && p.X509Props.SANs == nil:
		return bad("The policy has neither a subject nor a subject alternative name.")
	case strings.EqualFold(name, "Self"), strings.EqualFold(name, "Unknown"), v.issuers[strings.ToLower(name)] != nil:
	default:
		return bad("Issuer not found: " + name)
	}
	return nil
}

func (v *vaultState) startOperation(c *call, p *certificatePolicy, m *material, in *given) reply {
	if bad := v.vacantCertificate(c); bad != nil {
		return *bad
	}
	set, err := v.makeSet(c.name, p, m, in)
	if err != nil {
		return badParameter("The certificate could not be made: " + err.Error())
	}
	op := &operation{id: newVersion(), issuer: p.Issuer.Name, csr: m.csr, set: set, disabled: set.certificate.disabled}
	o, err := v.find("certificates", c.name)
	if err != nil { // its first version is there at once, without content
		for _, n := range set.all() {
			n.pending, n.disabled = true, true
		}
		o, op.attached = v.addSet(c.name, set), true
	}
	o.operation, o.operationGone = op, false
	v.keepPolicy(o, p)
	if strings.EqualFold(op.issuer, "Self") {
		op.ready = v.now().Add(*v.issuance)
		v.issuing = append(v.issuing, o)
	}
	a := v.operation(o)
	a.status = http.StatusAccepted
	asked := url.QueryEscape(c.URL.Query().Get("api-version"))
	a.header["Location"] = v.url("certificates", o.name) + "/pending?api-version=" + asked + "&request_id=" + op.id
	return a
}

// keepPolicy makes a policy the object's.
func (v *vaultState) keepPolicy(o *object, p *certificatePolicy) {
	now := stamp(v.now())
	p.ID = v.url("certificates", o.name) + "/policy"
	p.Attributes = policyAttributes{Enabled: true, Created: now, Updated: now}
	if o.policy != nil {
		p.Attributes.Created = o.policy.Attributes.Created
	} else if len(o.versions) > 1 {
		p.Attributes.Created = stamp(o.versions[0].created)
	}
	o.policy = p
}

// settle issues the self-signed certificates whose time has come.
func (v *vaultState) settle() {
	if len(v.issuing) == 0 {
		return
	}
	now := v.now()
	v.issuing = slices.DeleteFunc(v.issuing, func(o *object) bool {
		op := o.operation
		if op == nil || op.done || op.cancelled || v.objects[objectKey{"certificates", strings.ToLower(o.name)}] != o {
			return true
		}
		if now.Before(op.ready) {
			return false
		}
		v.issue(o)
		return true
	})
}

// issue gives a certificate that was asked for its content.
func (v *vaultState) issue(o *object) {
	op := o.operation
	op.done = true
	id := newVersion() // another one than before
	for _, n := range op.set.all() {
		n.id = id
		n.pending, n.disabled = false, op.disabled
		n.created, n.updated = v.now(), v.now()
	}
	op.set.secret.kid = v.url("keys", o.name) + "/" + id
	if !op.attached {
		v.addSet(o.name, op.set)
		op.attached = true
	}
	v.issued()
}

// updateOperation cancels the making of a certificate.
func (v *vaultState) updateOperation(c *call) (reply, slow) {
	var in struct {
		CancellationRequested bool `json:"cancellation_requested"`
	}
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	o, op, missing := v.findOperation(c)
	if missing != nil {
		return *missing, nil
	}
	switch {
	case !in.CancellationRequested:
		return malformed(), nil
	case op == nil || op.done:
		return badParameter("The certificate operation is completed: it cannot be cancelled."), nil
	}
	op.cancelled = true
	a := v.operation(o)
	a.header = nil
	return a, nil
}

// deleteOperation forgets how a certificate was made, and the certificate's version if it is not issued.
func (v *vaultState) deleteOperation(c *call) (reply, slow) {
	o, op, missing := v.findOperation(c)
	if missing != nil {
		return *missing, nil
	}
	a := v.operation(o)
	a.header = nil
	if op != nil && !op.done && op.attached {
		v.forget("certificates", o) // it was the first version
	}
	o.operation, o.operationGone = nil, true
	return a, nil
}

// findOperation returns the object whose operation a path names. The operation is nil for one from the seed.
func (v *vaultState) findOperation(c *call) (*object, *operation, *reply) {
	o, err := v.find("certificates", c.name)
	if err != nil || o.deleted || !o.hasOperation() {
		a := noOperation(c.name)
		return nil, nil, &a
	}
	return o, o.operation, nil
}

func noOperation(name string) reply {
	return refusal(http.StatusNotFound, "PendingCertificateNotFound", "Pending Certificate not found: "+name, "")
}

// hasOperation reports whether it is known how the current version was made.
func (o *object) hasOperation() bool {
	return o.operation != nil || o.current().csr != nil && !o.operationGone
}

// mergeCertificate completes an operation with a certificate that another authority signed.
func (v *vaultState) mergeCertificate(c *call) (reply, slow) {
	var in givenCertificate
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	if bad := in.check(); bad != nil {
		return *bad, nil
	}
	o, op, missing := v.findOperation(c)
	switch {
	case missing != nil:
		return *missing, nil
	case op == nil || op.done:
		return noOperation(c.name), nil
	}
	var chain []*x509.Certificate
	for _, der := range in.X5C {
		one, err := x509.ParseCertificate(der)
		if err != nil {
			chain = nil
			break
		}
		chain = append(chain, one)
	}
	if len(chain) == 0 {
		const message = "The specified X.509 certificate content can not be read. Please check if certificate is valid."
		return badParameter(message), nil
	}
	private := op.set.key.private
	if !samePublic(chain[0].PublicKey, private) {
		return badParameter(mismatch), nil
	}
	set, err := v.makeSet(o.name, o.policy, &material{private: private, chain: chain, csr: op.csr}, &in.given)
	if err != nil {
		return badParameter("The certificate could not be merged: " + err.Error()), nil
	}
	if in.Tags == nil {
		set.certificate.tags = op.set.certificate.tags
	}
	op.disabled = op.disabled && in.Attributes.Enabled == nil || set.certificate.disabled
	for i, n := range op.set.all() {
		*n = *set.all()[i]
	}
	v.issue(o)
	a := v.answer(c, o, op.set.certificate)
	a.status = http.StatusCreated
	a.header = map[string]string{"Location": v.url("certificates", o.name) + "/" + op.set.certificate.id}
	return a, nil
}

// mismatch is what the service says of a certificate whose key is another one.
const mismatch = "The public key of the end-entity certificate in the specified X.509 certificate content does not match " +
	"the public part of the specified private key. Please check if certificate is valid."

// importCertificate makes a version of a certificate from a PFX or PEM.
func (v *vaultState) importCertificate(c *call) (reply, slow) {
	var in givenCertificate
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	if bad := in.check(); bad != nil {
		return *bad, nil
	}
	if bad := v.vacantCertificate(c); bad != nil {
		return *bad, nil
	}
	asked := ""
	if in.Policy != nil && in.Policy.SecretProps != nil {
		asked = in.Policy.SecretProps.ContentType
	}
	return reply{}, func() func() reply {
		m, contentType, bad := readMaterial(in.Value, in.Password, asked)
		return func() reply {
			if bad != nil {
				return *bad
			}
			return v.addImported(c, &in, m, contentType)
		}
	}
}

func (v *vaultState) addImported(c *call, in *givenCertificate, m *material, contentType string) reply {
	if bad := v.vacantCertificate(c); bad != nil {
		return *bad
	}
	jwk, err := jwkOf(m.chain[0].PublicKey, "")
	if err != nil {
		return badParameter(err.Error())
	}
	if bad := checkKind(jwk.Kty, jwk.Crv, jwk.bits); bad != nil {
		return *bad
	}
	policy := toldPolicy(&version{jwk: jwk, contentType: contentType, der: m.chain[0].Raw})
	if in.Policy != nil {
		kept := givenPolicy{LifetimeActions: in.Policy.LifetimeActions, Issuer: in.Policy.Issuer}
		if k := in.Policy.KeyProps; k != nil { // what the key is comes from the key itself
			kept.KeyProps = &givenKeyProps{Exportable: k.Exportable, ReuseKey: k.ReuseKey}
		}
		if bad := kept.over(policy); bad != nil {
			return *bad
		}
	}
	set, err := v.makeSet(c.name, policy, m, &in.given)
	if err != nil {
		return badParameter("The certificate could not be imported: " + err.Error())
	}
	o := v.addSet(c.name, set)
	o.operation, o.operationGone = nil, true
	v.keepPolicy(o, policy)
	return v.answer(c, o, set.certificate)
}

// updateCertificate changes what a version has beside its content. Its times are those of its content.
func (v *vaultState) updateCertificate(c *call) (reply, slow) {
	var in givenCertificate
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
	if in.Policy != nil {
		if bad := v.changePolicy(o, in.Policy); bad != nil {
			return *bad, nil
		}
	}
	if in.Attributes.Enabled != nil && n.pending {
		return badParameter("The certificate is not issued: it cannot be enabled or disabled."), nil
	}
	if in.Attributes.Enabled != nil {
		for _, side := range v.withSides("certificates", o) {
			for _, other := range side.versions {
				if other.id == n.id {
					other.disabled, other.updated = !*in.Attributes.Enabled, v.now()
				}
			}
		}
	}
	if in.Tags != nil {
		n.tags = in.Tags
	}
	n.updated = v.now()
	return v.answer(c, o, n), nil
}

// updatePolicy changes how the next version of a certificate is made.
func (v *vaultState) updatePolicy(c *call) (reply, slow) {
	var in givenPolicy
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	o, _, missing := v.lookup(c.route)
	if missing != nil {
		return *missing, nil
	}
	if bad := v.changePolicy(o, &in); bad != nil {
		return *bad, nil
	}
	return reply{status: http.StatusOK, body: o.policy}, nil
}

func (v *vaultState) changePolicy(o *object, in *givenPolicy) *reply {
	p := v.policy(o, o.current())
	if bad := in.over(p); bad != nil {
		return bad
	}
	v.keepPolicy(o, p)
	return nil
}
