// Command golang makes the reads and writes of test/clients with Microsoft's Go clients, as any program uses them: all
// that it knows of the emulator is in its environment. It prints a JSON line for each step.
package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azcertificates"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
)

const vault = "https://contoso.vault.azure.net"

type object = map[string]any

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	credential, err := azidentity.NewEnvironmentCredential(nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // nothing has begun
	}
	readSecrets(ctx, credential)
	readKeys(ctx, credential)
	readCertificates(ctx, credential)
	refusals(ctx, credential)
	credentials(ctx)
	writeSecrets(ctx, credential)
	writeKeys(ctx, credential)
	writeCertificates(ctx, credential)
}

// step prints what an operation gave.
func step(name string, do func() (any, error)) {
	out := object{"step": name}
	result, err := do()
	if err != nil {
		failure := object{"message": err.Error()}
		if e, ok := errors.AsType[*azcore.ResponseError](err); ok {
			failure["status"], failure["code"] = e.StatusCode, e.ErrorCode
		}
		out["error"] = failure
	} else {
		out["result"] = result
	}
	line, err := json.Marshal(out)
	if err != nil {
		line = fmt.Appendf(nil, `{"step":%q,"error":{"message":%q}}`, name, err.Error())
	}
	_, _ = fmt.Fprintln(os.Stdout, string(line))
}

// all are the elements of every page.
func all[Page any](ctx context.Context, pager *runtime.Pager[Page], elements func(Page) []string) (any, error) {
	found := []string{}
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		found = append(found, elements(page)...)
	}
	return found, nil
}

func ids[E any, ID ~string](elements []E, id func(E) *ID) []string {
	found := make([]string, 0, len(elements))
	for _, e := range elements {
		found = append(found, string(*id(e)))
	}
	return found
}

func seconds(t *time.Time) any {
	if t == nil {
		return nil
	}
	return t.Unix()
}

func secretsClient(credential azcore.TokenCredential, vault string) *azsecrets.Client {
	c, err := azsecrets.NewClient(vault, credential, nil)
	if err != nil {
		panic(err) // the URL is one
	}
	return c
}

func readSecrets(ctx context.Context, credential azcore.TokenCredential) {
	c := secretsClient(credential, vault)
	get := func(name, version string) func() (any, error) {
		return func() (any, error) {
			s, err := c.GetSecret(ctx, name, version, nil)
			if err != nil {
				return nil, err
			}
			a := s.Attributes
			return object{
				"id": s.ID, "value": s.Value, "contentType": s.ContentType, "tags": s.Tags, "enabled": a.Enabled,
				"created": seconds(a.Created), "updated": seconds(a.Updated), "expires": seconds(a.Expires),
				"notBefore": seconds(a.NotBefore), "recoveryLevel": a.RecoveryLevel, "managed": s.Managed, "kid": s.KID,
			}, nil
		}
	}
	step("secret", get("db", ""))
	step("secret version", get("db", "00000000000000000000000000000001"))
	step("secret of a certificate", get("shop", ""))
	step("secrets", func() (any, error) {
		return all(ctx, c.NewListSecretPropertiesPager(nil), func(p azsecrets.ListSecretPropertiesResponse) []string {
			return ids(p.Value, func(s *azsecrets.SecretProperties) *azsecrets.ID { return s.ID })
		})
	})
	step("secret versions", func() (any, error) {
		pager := c.NewListSecretPropertiesVersionsPager("db", nil)
		return all(ctx, pager, func(p azsecrets.ListSecretPropertiesVersionsResponse) []string {
			return ids(p.Value, func(s *azsecrets.SecretProperties) *azsecrets.ID { return s.ID })
		})
	})
	step("deleted secret", func() (any, error) {
		s, err := c.GetDeletedSecret(ctx, "gone", nil)
		if err != nil {
			return nil, err
		}
		return object{
			"id": s.ID, "recoveryId": s.RecoveryID,
			"days": s.ScheduledPurgeDate.Sub(*s.DeletedDate).Hours() / 24,
		}, nil
	})
	step("deleted secrets", func() (any, error) {
		pager := c.NewListDeletedSecretPropertiesPager(nil)
		return all(ctx, pager, func(p azsecrets.ListDeletedSecretPropertiesResponse) []string {
			return ids(p.Value, func(s *azsecrets.DeletedSecretProperties) *azsecrets.ID { return s.ID })
		})
	})
}

func readKeys(ctx context.Context, credential azcore.TokenCredential) {
	c, err := azkeys.NewClient(vault, credential, nil)
	if err != nil {
		panic(err) // the URL is one
	}
	get := func(name, version string) func() (any, error) {
		return func() (any, error) {
			k, err := c.GetKey(ctx, name, version, nil)
			if err != nil {
				return nil, err
			}
			return object{
				"id": k.Key.KID, "type": k.Key.Kty, "curve": k.Key.Crv, "operations": k.Key.KeyOps, "tags": k.Tags,
				"enabled": k.Attributes.Enabled, "created": seconds(k.Attributes.Created),
				"recoveryLevel": k.Attributes.RecoveryLevel, "managed": k.Managed,
				"modulus": len(k.Key.N), "x": len(k.Key.X), "private": len(k.Key.D) > 0,
			}, nil
		}
	}
	step("key", get("signing", ""))
	step("key version", get("signing", "00000000000000000000000000000001"))
	step("RSA key", get("wrapping", ""))
	step("disabled key", get("off", ""))
	step("key of a certificate", get("shop", ""))
	step("keys", func() (any, error) {
		return all(ctx, c.NewListKeyPropertiesPager(nil), func(p azkeys.ListKeyPropertiesResponse) []string {
			return ids(p.Value, func(k *azkeys.KeyProperties) *azkeys.ID { return k.KID })
		})
	})
	step("key versions", func() (any, error) {
		pager := c.NewListKeyPropertiesVersionsPager("signing", nil)
		return all(ctx, pager, func(p azkeys.ListKeyPropertiesVersionsResponse) []string {
			return ids(p.Value, func(k *azkeys.KeyProperties) *azkeys.ID { return k.KID })
		})
	})
	step("key rotation policy", func() (any, error) {
		p, err := c.GetKeyRotationPolicy(ctx, "wrapping", nil)
		if err != nil {
			return nil, err
		}
		return len(p.LifetimeActions), nil
	})
	step("deleted key", func() (any, error) {
		k, err := c.GetDeletedKey(ctx, "gone", nil)
		if err != nil {
			return nil, err
		}
		return object{
			"id": k.Key.KID, "recoveryId": k.RecoveryID,
			"days": k.ScheduledPurgeDate.Sub(*k.DeletedDate).Hours() / 24,
		}, nil
	})
	step("deleted keys", func() (any, error) {
		pager := c.NewListDeletedKeyPropertiesPager(nil)
		return all(ctx, pager, func(p azkeys.ListDeletedKeyPropertiesResponse) []string {
			return ids(p.Value, func(k *azkeys.DeletedKeyProperties) *azkeys.ID { return k.KID })
		})
	})
}

func readCertificates(ctx context.Context, credential azcore.TokenCredential) {
	c, err := azcertificates.NewClient(vault, credential, nil)
	if err != nil {
		panic(err) // the URL is one
	}
	get := func(name, version string) func() (any, error) {
		return func() (any, error) {
			cert, err := c.GetCertificate(ctx, name, version, nil)
			if err != nil {
				return nil, err
			}
			policy := object(nil)
			if p := cert.Policy; p != nil {
				policy = object{
					"subject": p.X509CertificateProperties.Subject, "contentType": p.SecretProperties.ContentType,
					"type": p.KeyProperties.KeyType, "issuer": p.IssuerParameters.Name,
				}
			}
			return object{
				"id": cert.ID, "kid": cert.KID, "sid": cert.SID, "tags": cert.Tags, "enabled": cert.Attributes.Enabled,
				"created": seconds(cert.Attributes.Created), "recoveryLevel": cert.Attributes.RecoveryLevel,
				"x5t": hex.EncodeToString(cert.X509Thumbprint), "cer": base64.StdEncoding.EncodeToString(cert.CER),
				"policy": policy,
			}, nil
		}
	}
	step("certificate", get("shop", ""))
	step("certificate version", get("shop", "00000000000000000000000000000001"))
	step("disabled certificate", get("off-cert", ""))
	step("certificate policy", func() (any, error) {
		p, err := c.GetCertificatePolicy(ctx, "shop", nil)
		if err != nil {
			return nil, err
		}
		return object{"subject": p.X509CertificateProperties.Subject}, nil
	})
	step("certificate operation", func() (any, error) {
		o, err := c.GetCertificateOperation(ctx, "shop", nil)
		if err != nil {
			return nil, err
		}
		return object{"status": o.Status, "target": o.Target}, nil
	})
	step("certificate issuers", func() (any, error) {
		pager := c.NewListIssuerPropertiesPager(nil)
		return all(ctx, pager, func(p azcertificates.ListIssuerPropertiesResponse) []string {
			return ids(p.Value, func(i *azcertificates.IssuerProperties) *string { return i.ID })
		})
	})
	step("certificate contacts", func() (any, error) {
		_, err := c.GetContacts(ctx, nil)
		return nil, err
	})
	step("certificates", func() (any, error) {
		pager := c.NewListCertificatePropertiesPager(nil)
		return all(ctx, pager, func(p azcertificates.ListCertificatePropertiesResponse) []string {
			return ids(p.Value, func(c *azcertificates.CertificateProperties) *azcertificates.ID { return c.ID })
		})
	})
	step("certificate versions", func() (any, error) {
		pager := c.NewListCertificatePropertiesVersionsPager("shop", nil)
		return all(ctx, pager, func(p azcertificates.ListCertificatePropertiesVersionsResponse) []string {
			return ids(p.Value, func(c *azcertificates.CertificateProperties) *azcertificates.ID { return c.ID })
		})
	})
	step("deleted certificate", func() (any, error) {
		cert, err := c.GetDeletedCertificate(ctx, "gone-cert", nil)
		if err != nil {
			return nil, err
		}
		return object{
			"id": cert.ID, "recoveryId": cert.RecoveryID,
			"days": cert.ScheduledPurgeDate.Sub(*cert.DeletedDate).Hours() / 24,
		}, nil
	})
	step("deleted certificates", func() (any, error) {
		pager := c.NewListDeletedCertificatePropertiesPager(nil)
		return all(ctx, pager, func(p azcertificates.ListDeletedCertificatePropertiesResponse) []string {
			return ids(p.Value, func(c *azcertificates.DeletedCertificateProperties) *azcertificates.ID { return c.ID })
		})
	})
	step("missing certificate", get("none", ""))
}

func refusals(ctx context.Context, credential azcore.TokenCredential) {
	for _, r := range []struct{ step, vault, name string }{
		{"missing secret", vault, "none"},
		{"disabled secret", vault, "off"},
		{"name of no secret", vault, "no_name"},
		{"forbidden by role", "https://fabrikam.vault.azure.net", "db"},
		{"forbidden by policy", "https://tailspin.vault.azure.net", "db"},
		{"forbidden by firewall", "https://closed.vault.azure.net", "db"},
		{"throttled once", vault, "busy"},
	} {
		step(r.step, func() (any, error) {
			s, err := secretsClient(credential, r.vault).GetSecret(ctx, r.name, "", nil)
			return s.Value, err
		})
	}
	step("missing deleted secret", func() (any, error) {
		_, err := secretsClient(credential, vault).GetDeletedSecret(ctx, "db", nil)
		return nil, err
	})
	step("deleted secret that never was", func() (any, error) {
		_, err := secretsClient(credential, vault).GetDeletedSecret(ctx, "none", nil)
		return nil, err
	})
	step("missing key", func() (any, error) {
		c, err := azkeys.NewClient(vault, credential, nil)
		if err != nil {
			return nil, err
		}
		_, err = c.GetKey(ctx, "none", "", nil)
		return nil, err
	})
}

// credentials reads a secret with each kind of credential.
func credentials(ctx context.Context) {
	tenant, client := os.Getenv("AZURE_TENANT_ID"), os.Getenv("AZURE_CLIENT_ID")
	for _, c := range []struct {
		step string
		make func() (azcore.TokenCredential, error)
	}{
		{"default credential", func() (azcore.TokenCredential, error) { return azidentity.NewDefaultAzureCredential(nil) }},
		{"federated token", func() (azcore.TokenCredential, error) { return azidentity.NewWorkloadIdentityCredential(nil) }},
		{"client certificate", func() (azcore.TokenCredential, error) {
			data, err := os.ReadFile(os.Getenv("CLIENTS_CERTIFICATE")) //nolint:gosec // the test's
			if err != nil {
				return nil, err
			}
			certificates, key, err := azidentity.ParseCertificates(data, nil)
			if err != nil {
				return nil, err
			}
			return azidentity.NewClientCertificateCredential(tenant, client, certificates, key, nil)
		}},
		{"managed identity", func() (azcore.TokenCredential, error) { return azidentity.NewManagedIdentityCredential(nil) }},
		{"managed identity by client ID", func() (azcore.TokenCredential, error) {
			id := azidentity.ClientID(os.Getenv("CLIENTS_IDENTITY"))
			return azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ID: id})
		}},
		{"managed identity that is none", func() (azcore.TokenCredential, error) {
			id := azidentity.ClientID("99999999-9999-9999-9999-999999999999")
			return azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ID: id})
		}},
		{"wrong client secret", func() (azcore.TokenCredential, error) {
			return azidentity.NewClientSecretCredential(tenant, client, "wrong", nil)
		}},
		{"unknown client", func() (azcore.TokenCredential, error) {
			return azidentity.NewClientSecretCredential(tenant, "99999999-9999-9999-9999-999999999999", "wrong", nil)
		}},
		{"federated token of another subject", func() (azcore.TokenCredential, error) {
			return azidentity.NewClientAssertionCredential(tenant, client, func(context.Context) (string, error) {
				data, err := os.ReadFile(os.Getenv("CLIENTS_OTHER_TOKEN")) //nolint:gosec // the test's
				return string(data), err
			}, nil)
		}},
	} {
		step(c.step, func() (any, error) {
			credential, err := c.make()
			if err != nil {
				return nil, err
			}
			s, err := secretsClient(credential, vault).GetSecret(ctx, "db", "", nil)
			return s.Value, err
		})
	}
	step("unknown tenant", func() (any, error) {
		c, err := azidentity.NewClientSecretCredential("99999999-9999-9999-9999-999999999999", client, "wrong", nil)
		if err != nil {
			return nil, err
		}
		_, err = c.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
		return nil, err
	})
}
