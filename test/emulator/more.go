package emulator

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"strings"

	"software.sslmate.com/src/go-pkcs12"
)

// policy is how a certificate is made.
func (v *vaultState) policy(o *object, n *version) map[string]any {
	return map[string]any{
		"id":           "https://" + v.host + "/certificates/" + o.name + "/policy",
		"key_props":    map[string]any{"exportable": true, "kty": n.jwk["kty"], "reuse_key": false},
		"secret_props": map[string]any{"contentType": n.contentType},
		"issuer":       map[string]any{"name": "Self"},
	}
}

func (v *vaultState) getPolicy(name string) reply {
	o, err := v.find("certificates", name)
	if err != nil || o.deleted {
		return v.get("certificates", "certificate", name, "")
	}
	return reply{status: http.StatusOK, body: v.policy(o, o.versions[len(o.versions)-1])}
}

// getDeleted shows an object that was deleted and can be recovered.
func (v *vaultState) getDeleted(kind, noun, name string) reply {
	o, err := v.find(kind, name)
	if err != nil || !o.deleted {
		title := strings.ToUpper(noun[:1]) + noun[1:]
		return refusal(http.StatusNotFound, title+"NotFound", "Deleted "+title+" not found: "+name, "")
	}
	n := o.versions[len(o.versions)-1]
	body := v.render(kind, o, n)
	delete(body, "value")
	body["recoveryId"] = "https://" + v.host + "/deleted" + kind + "/" + o.name
	body["deletedDate"], body["scheduledPurgeDate"] = n.created.Unix(), n.created.AddDate(0, 0, 90).Unix()
	return reply{status: http.StatusOK, body: body}
}

// convert turns a PFX into PEM as outContentType asks: the one conversion that Key Vault makes.
func convert(a reply, out string) reply {
	body, ok := a.body.(map[string]any)
	if !ok || out != "application/x-pem-file" || body["contentType"] != "application/x-pkcs12" {
		return refusal(http.StatusBadRequest, "BadParameter", "outContentType "+out+" is not supported for this secret", "")
	}
	text, _ := body["value"].(string)
	pfx, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return refusal(http.StatusBadRequest, "BadParameter", "the secret is no PFX", "")
	}
	var chain []*x509.Certificate
	var signer crypto.Signer
	if key, leaf, issuers, err := pkcs12.DecodeChain(pfx, ""); err == nil {
		signer, _ = key.(crypto.Signer)
		chain = append([]*x509.Certificate{leaf}, issuers...)
	} else if chain, err = pkcs12.DecodeTrustStore(pfx, ""); err != nil {
		return refusal(http.StatusBadRequest, "BadParameter", "the PFX cannot be converted", "")
	}
	value, err := secretOf(out, chain, signer)
	if err != nil {
		return refusal(http.StatusBadRequest, "BadParameter", "the PFX cannot be converted", "")
	}
	body["value"], body["contentType"] = value, out
	return a
}
