package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azcertificates"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
)

// flow is a step of several operations: the first failure is the step's.
type flow struct{ err error }

// do runs an operation unless one has failed.
func do[R any](f *flow, operation func() (R, error)) (result R) {
	if f.err == nil {
		result, f.err = operation()
	}
	return result
}

func writeSecrets(ctx context.Context, credential azcore.TokenCredential) {
	c := secretsClient(credential, vault)
	remove := func(f *flow) {
		do(f, func() (azsecrets.DeleteSecretResponse, error) { return c.DeleteSecret(ctx, "made", nil) })
	}
	value := func(f *flow) any {
		return do(f, func() (azsecrets.GetSecretResponse, error) { return c.GetSecret(ctx, "made", "", nil) }).Value
	}
	step("set secret", func() (any, error) {
		s, err := c.SetSecret(ctx, "made", azsecrets.SetSecretParameters{
			Value: new("v1"), Tags: map[string]*string{"a": new("b")},
			SecretAttributes: &azsecrets.SecretAttributes{Enabled: new(true), Expires: new(time.Unix(2100000000, 0))},
		}, nil)
		if err != nil {
			return nil, err
		}
		return object{
			"value": s.Value, "tags": s.Tags, "expires": seconds(s.Attributes.Expires),
			"enabled": s.Attributes.Enabled,
		}, nil
	})
	step("update secret", func() (any, error) {
		parameters := azsecrets.UpdateSecretPropertiesParameters{Tags: map[string]*string{"c": new("d")}}
		s, err := c.UpdateSecretProperties(ctx, "made", "", parameters, nil)
		if err != nil {
			return nil, err
		}
		return object{"tags": s.Tags, "enabled": s.Attributes.Enabled}, nil
	})
	step("restore secret", func() (any, error) {
		f := &flow{}
		backup := do(f, func() (azsecrets.BackupSecretResponse, error) { return c.BackupSecret(ctx, "made", nil) })
		remove(f)
		do(f, func() (azsecrets.PurgeDeletedSecretResponse, error) { return c.PurgeDeletedSecret(ctx, "made", nil) })
		do(f, func() (azsecrets.RestoreSecretResponse, error) {
			return c.RestoreSecret(ctx, azsecrets.RestoreSecretParameters{SecretBackup: backup.Value}, nil)
		})
		return value(f), f.err
	})
	step("recover secret", func() (any, error) {
		f := &flow{}
		remove(f)
		do(f, func() (azsecrets.RecoverDeletedSecretResponse, error) {
			return c.RecoverDeletedSecret(ctx, "made", nil)
		})
		return value(f), f.err
	})
	step("set a deleted secret", func() (any, error) {
		f := &flow{}
		remove(f)
		do(f, func() (azsecrets.SetSecretResponse, error) {
			return c.SetSecret(ctx, "made", azsecrets.SetSecretParameters{Value: new("v2")}, nil)
		})
		return nil, f.err
	})
	step("malformed backup", func() (any, error) {
		_, err := c.RestoreSecret(ctx, azsecrets.RestoreSecretParameters{SecretBackup: []byte("non-existing")}, nil)
		return nil, err
	})
}

func writeKeys(ctx context.Context, credential azcore.TokenCredential) {
	c, err := azkeys.NewClient(vault, credential, nil)
	if err != nil {
		panic(err) // the URL is one
	}
	digest := sha256.Sum256([]byte("text"))
	signed := func(name string, algorithm azkeys.SignatureAlgorithm) (any, error) {
		f := &flow{}
		s := do(f, func() (azkeys.SignResponse, error) {
			return c.Sign(ctx, name, "", azkeys.SignParameters{Algorithm: &algorithm, Value: digest[:]}, nil)
		})
		v := do(f, func() (azkeys.VerifyResponse, error) {
			return c.Verify(ctx, name, "", azkeys.VerifyParameters{Algorithm: &algorithm, Digest: digest[:], Signature: s.Result}, nil)
		})
		return v.Value, f.err
	}
	step("create keys", func() (any, error) {
		f := &flow{}
		rsa := do(f, func() (azkeys.CreateKeyResponse, error) {
			p := azkeys.CreateKeyParameters{Kty: new(azkeys.KeyTypeRSA), KeySize: new(int32(2048))}
			return c.CreateKey(ctx, "made-rsa", p, nil)
		})
		ec := do(f, func() (azkeys.CreateKeyResponse, error) {
			p := azkeys.CreateKeyParameters{Kty: new(azkeys.KeyTypeEC), Curve: new(azkeys.CurveNameP256)}
			return c.CreateKey(ctx, "made-ec", p, nil)
		})
		if f.err != nil {
			return nil, f.err
		}
		return []any{rsa.Key.Kty, len(rsa.Key.N), ec.Key.Kty, ec.Key.Crv}, nil
	})
	step("import key", func() (any, error) {
		f := &flow{}
		raw := func(text string) []byte {
			return do(f, func() ([]byte, error) { return base64.RawURLEncoding.DecodeString(text) })
		}
		key := azkeys.JSONWebKey{ // RFC 7515, appendix A.3
			Kty: new(azkeys.KeyTypeEC), Crv: new(azkeys.CurveNameP256),
			X: raw("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"), Y: raw("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
			D: raw("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"),
		}
		k := do(f, func() (azkeys.ImportKeyResponse, error) {
			return c.ImportKey(ctx, "imported", azkeys.ImportKeyParameters{Key: &key}, nil)
		})
		if f.err != nil {
			return nil, f.err
		}
		return object{"type": k.Key.Kty, "curve": k.Key.Crv}, nil
	})
	step("sign with RS256", func() (any, error) { return signed("made-rsa", azkeys.SignatureAlgorithmRS256) })
	step("sign with PS256", func() (any, error) { return signed("made-rsa", azkeys.SignatureAlgorithmPS256) })
	step("sign with ES256", func() (any, error) { return signed("imported", azkeys.SignatureAlgorithmES256) })
	step("encrypt and decrypt", func() (any, error) {
		f := &flow{}
		in := azkeys.KeyOperationParameters{Algorithm: new(azkeys.EncryptionAlgorithmRSAOAEP256), Value: []byte("plaintext")}
		in.Value = do(f, func() (azkeys.EncryptResponse, error) { return c.Encrypt(ctx, "made-rsa", "", in, nil) }).Result
		out := do(f, func() (azkeys.DecryptResponse, error) { return c.Decrypt(ctx, "made-rsa", "", in, nil) })
		return string(out.Result), f.err
	})
	step("wrap and unwrap", func() (any, error) {
		f := &flow{}
		in := azkeys.KeyOperationParameters{Algorithm: new(azkeys.EncryptionAlgorithmRSAOAEP), Value: []byte("key")}
		in.Value = do(f, func() (azkeys.WrapKeyResponse, error) { return c.WrapKey(ctx, "made-rsa", "", in, nil) }).Result
		out := do(f, func() (azkeys.UnwrapKeyResponse, error) { return c.UnwrapKey(ctx, "made-rsa", "", in, nil) })
		return string(out.Result), f.err
	})
	step("rotate key", func() (any, error) {
		f := &flow{}
		policy := azkeys.KeyRotationPolicy{
			Attributes: &azkeys.KeyRotationPolicyAttributes{ExpiryTime: new("P90D")},
			LifetimeActions: []*azkeys.LifetimeAction{{
				Action:  &azkeys.LifetimeActionType{Type: new(azkeys.KeyRotationPolicyActionRotate)},
				Trigger: &azkeys.LifetimeActionTrigger{TimeAfterCreate: new("P30D")},
			}},
		}
		set := do(f, func() (azkeys.UpdateKeyRotationPolicyResponse, error) {
			return c.UpdateKeyRotationPolicy(ctx, "made-ec", policy, nil)
		})
		k := do(f, func() (azkeys.RotateKeyResponse, error) { return c.RotateKey(ctx, "made-ec", nil) })
		if f.err != nil {
			return nil, f.err
		}
		a := k.Attributes
		return object{"actions": len(set.LifetimeActions), "days": a.Expires.Sub(*a.Created).Round(24*time.Hour).Hours() / 24}, nil
	})
	step("update key", func() (any, error) {
		k, err := c.UpdateKey(ctx, "made-ec", "", azkeys.UpdateKeyParameters{
			KeyAttributes: &azkeys.KeyAttributes{Enabled: new(false)},
			KeyOps:        []*azkeys.KeyOperation{new(azkeys.KeyOperationVerify)},
		}, nil)
		if err != nil {
			return nil, err
		}
		return object{"enabled": k.Attributes.Enabled, "operations": k.Key.KeyOps}, nil
	})
	step("restore key", func() (any, error) {
		f := &flow{}
		backup := do(f, func() (azkeys.BackupKeyResponse, error) { return c.BackupKey(ctx, "imported", nil) })
		do(f, func() (azkeys.DeleteKeyResponse, error) { return c.DeleteKey(ctx, "imported", nil) })
		do(f, func() (azkeys.PurgeDeletedKeyResponse, error) { return c.PurgeDeletedKey(ctx, "imported", nil) })
		k := do(f, func() (azkeys.RestoreKeyResponse, error) {
			return c.RestoreKey(ctx, azkeys.RestoreKeyParameters{KeyBackup: backup.Value}, nil)
		})
		if f.err != nil {
			return nil, f.err
		}
		return k.Key.Crv, nil
	})
}

func writeCertificates(ctx context.Context, credential azcore.TokenCredential) {
	c, err := azcertificates.NewClient(vault, credential, nil)
	if err != nil {
		panic(err) // the URL is one
	}
	secret := func(f *flow) string {
		s := do(f, func() (azsecrets.GetSecretResponse, error) {
			return secretsClient(credential, vault).GetSecret(ctx, "made-cert", "", nil)
		})
		if f.err != nil {
			return ""
		}
		return *s.Value
	}
	get := func(f *flow) azcertificates.Certificate {
		return do(f, func() (azcertificates.GetCertificateResponse, error) {
			return c.GetCertificate(ctx, "made-cert", "", nil)
		}).Certificate
	}
	pemType := &azcertificates.SecretProperties{ContentType: new("application/x-pem-file")}
	step("create certificate", func() (any, error) {
		f := &flow{}
		names := &azcertificates.SubjectAlternativeNames{DNSNames: []*string{new("made.example")}}
		policy := &azcertificates.CertificatePolicy{
			IssuerParameters: &azcertificates.IssuerParameters{Name: new("Self")},
			KeyProperties: &azcertificates.KeyProperties{
				KeyType:    new(azcertificates.KeyTypeEC),
				Curve:      new(azcertificates.CurveNameP256),
				Exportable: new(true),
				ReuseKey:   new(false),
			},
			SecretProperties: pemType,
			X509CertificateProperties: &azcertificates.X509CertificateProperties{
				Subject:                 new("CN=made.example"),
				SubjectAlternativeNames: names,
				ValidityInMonths:        new(int32(3)),
			},
		}
		do(f, func() (azcertificates.CreateCertificateResponse, error) {
			parameters := azcertificates.CreateCertificateParameters{CertificatePolicy: policy}
			return c.CreateCertificate(ctx, "made-cert", parameters, nil)
		})
		for f.err == nil {
			o := do(f, func() (azcertificates.GetCertificateOperationResponse, error) {
				return c.GetCertificateOperation(ctx, "made-cert", nil)
			})
			if f.err == nil && *o.Status != "inProgress" {
				break
			}
			time.Sleep(time.Second)
		}
		made := get(f)
		line, _, _ := strings.Cut(secret(f), "\n")
		if f.err != nil {
			return nil, f.err
		}
		p := made.Policy
		return object{
			"subject": p.X509CertificateProperties.Subject, "names": p.X509CertificateProperties.SubjectAlternativeNames.DNSNames,
			"contentType": p.SecretProperties.ContentType, "enabled": made.Attributes.Enabled, "secret": strings.TrimSpace(line),
		}, nil
	})
	step("update certificate", func() (any, error) {
		parameters := azcertificates.UpdateCertificateParameters{Tags: map[string]*string{"c": new("d")}}
		u, err := c.UpdateCertificate(ctx, "made-cert", "", parameters, nil)
		if err != nil {
			return nil, err
		}
		return u.Tags, nil
	})
	step("import certificate", func() (any, error) {
		f := &flow{}
		value, made := secret(f), get(f)
		in := do(f, func() (azcertificates.ImportCertificateResponse, error) {
			return c.ImportCertificate(ctx, "imported-cert", azcertificates.ImportCertificateParameters{
				Base64EncodedCertificate: &value, CertificatePolicy: &azcertificates.CertificatePolicy{SecretProperties: pemType},
			}, nil)
		})
		return bytes.Equal(in.CER, made.CER), f.err
	})
	step("certificate issuer", func() (any, error) {
		f := &flow{}
		do(f, func() (azcertificates.SetIssuerResponse, error) {
			return c.SetIssuer(ctx, "issuer", azcertificates.SetIssuerParameters{
				Provider: new("Test"), Credentials: &azcertificates.IssuerCredentials{AccountID: new("user")},
			}, nil)
		})
		i := do(f, func() (azcertificates.GetIssuerResponse, error) { return c.GetIssuer(ctx, "issuer", nil) })
		do(f, func() (azcertificates.DeleteIssuerResponse, error) { return c.DeleteIssuer(ctx, "issuer", nil) })
		if f.err != nil {
			return nil, f.err
		}
		return fmt.Sprintf("%s %s", *i.Provider, *i.Credentials.AccountID), nil
	})
	step("set contacts", func() (any, error) {
		f := &flow{}
		do(f, func() (azcertificates.SetContactsResponse, error) {
			contact := &azcertificates.Contact{Email: new("one@localhost"), Name: new("One")}
			return c.SetContacts(ctx, azcertificates.Contacts{ContactList: []*azcertificates.Contact{contact}}, nil)
		})
		got := do(f, func() (azcertificates.GetContactsResponse, error) { return c.GetContacts(ctx, nil) })
		do(f, func() (azcertificates.DeleteContactsResponse, error) { return c.DeleteContacts(ctx, nil) })
		found := []any{}
		for _, contact := range got.ContactList {
			found = append(found, contact.Email)
		}
		return found, f.err
	})
	step("restore certificate", func() (any, error) {
		f := &flow{}
		before := get(f)
		backup := do(f, func() (azcertificates.BackupCertificateResponse, error) {
			return c.BackupCertificate(ctx, "made-cert", nil)
		})
		do(f, func() (azcertificates.DeleteCertificateResponse, error) {
			return c.DeleteCertificate(ctx, "made-cert", nil)
		})
		do(f, func() (azcertificates.PurgeDeletedCertificateResponse, error) {
			return c.PurgeDeletedCertificate(ctx, "made-cert", nil)
		})
		after := do(f, func() (azcertificates.RestoreCertificateResponse, error) {
			return c.RestoreCertificate(ctx, azcertificates.RestoreCertificateParameters{CertificateBackup: backup.Value}, nil)
		})
		return bytes.Equal(after.CER, before.CER), f.err
	})
}
