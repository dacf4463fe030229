"""Makes the reads of test/clients with Microsoft's Python clients, as any program uses them: all that it knows of the
emulator is in its environment. Prints a JSON line for each step."""

import base64
import json
import os

from azure.core.exceptions import HttpResponseError
from azure.identity import (
    CertificateCredential,
    ClientAssertionCredential,
    ClientSecretCredential,
    DefaultAzureCredential,
    EnvironmentCredential,
    ManagedIdentityCredential,
)
from azure.keyvault.certificates import CertificateClient
from azure.keyvault.keys import KeyClient
from azure.keyvault.secrets import SecretClient

VAULT = "https://contoso.vault.azure.net"
SCOPE = "https://vault.azure.net/.default"
FIRST = "00000000000000000000000000000001"


def step(name, run):
    out = {"step": name}
    try:
        out["result"] = run()
    except Exception as e:  # every failure is a result here
        out["error"] = {"message": str(e)}
        if isinstance(e, HttpResponseError) and e.status_code:
            out["error"]["status"] = e.status_code
            out["error"]["code"] = e.error.code if e.error else None
    print(json.dumps(out), flush=True)


def seconds(date):
    return int(date.timestamp()) if date else None


def days(deleted):
    return (deleted.scheduled_purge_date - deleted.deleted_date).total_seconds() / 86400


def read_secrets(credential):
    client = SecretClient(VAULT, credential)

    def get(name, version=None):
        s = client.get_secret(name, version)
        p = s.properties
        return {
            "id": s.id,
            "value": s.value,
            "contentType": p.content_type,
            "tags": p.tags,
            "enabled": p.enabled,
            "created": seconds(p.created_on),
            "updated": seconds(p.updated_on),
            "expires": seconds(p.expires_on),
            "notBefore": seconds(p.not_before),
            "recoveryLevel": p.recovery_level,
            "managed": p._managed if hasattr(p, "_managed") else None,
            "kid": p.key_id,
        }

    def deleted():
        s = client.get_deleted_secret("gone")
        return {"id": s.id, "recoveryId": s.recovery_id, "days": days(s)}

    step("secret", lambda: get("db"))
    step("secret version", lambda: get("db", FIRST))
    step("secret of a certificate", lambda: get("shop"))
    step("secrets", lambda: [s.id for s in client.list_properties_of_secrets()])
    step("secret versions", lambda: [s.id for s in client.list_properties_of_secret_versions("db")])
    step("deleted secret", deleted)
    step("deleted secrets", lambda: [s.id for s in client.list_deleted_secrets()])


def read_keys(credential):
    client = KeyClient(VAULT, credential)

    def get(name, version=None):
        k = client.get_key(name, version)
        return {
            "id": k.id,
            "type": k.key_type,
            "curve": k.key.crv,
            "operations": list(k.key_operations),
            "tags": k.properties.tags,
            "enabled": k.properties.enabled,
            "created": seconds(k.properties.created_on),
            "recoveryLevel": k.properties.recovery_level,
            "managed": k.properties.managed,
            "modulus": len(k.key.n or b""),
            "x": len(k.key.x or b""),
            "private": len(k.key.d or b"") > 0,
        }

    def deleted():
        k = client.get_deleted_key("gone")
        return {"id": k.id, "recoveryId": k.recovery_id, "days": days(k)}

    step("key", lambda: get("signing"))
    step("key version", lambda: get("signing", FIRST))
    step("RSA key", lambda: get("wrapping"))
    step("disabled key", lambda: get("off"))
    step("key of a certificate", lambda: get("shop"))
    step("keys", lambda: [k.id for k in client.list_properties_of_keys()])
    step("key versions", lambda: [k.id for k in client.list_properties_of_key_versions("signing")])
    step("key rotation policy", lambda: len(client.get_key_rotation_policy("wrapping").lifetime_actions))
    step("deleted key", deleted)
    step("deleted keys", lambda: [k.id for k in client.list_deleted_keys()])


def read_certificates(credential):
    client = CertificateClient(VAULT, credential)

    def result(c):
        policy = getattr(c, "policy", None)
        return {
            "id": c.id,
            "kid": c.key_id,
            "sid": c.secret_id,
            "tags": c.properties.tags,
            "enabled": c.properties.enabled,
            "created": seconds(c.properties.created_on),
            "recoveryLevel": c.properties.recovery_level,
            "x5t": c.properties.x509_thumbprint.hex(),
            "cer": base64.b64encode(c.cer).decode(),
            "policy": policy and {
                "subject": policy.subject,
                "contentType": policy.content_type,
                "type": policy.key_type,
                "issuer": policy.issuer_name,
            },
        }

    def deleted():
        c = client.get_deleted_certificate("gone-cert")
        return {"id": c.id, "recoveryId": c.recovery_id, "days": (c.scheduled_purge_date - c.deleted_on).days}

    def operation():
        o = client.get_certificate_operation("shop")
        return {"status": o.status, "target": o.target}

    step("certificate", lambda: result(client.get_certificate("shop")))
    step("certificate version", lambda: result(client.get_certificate_version("shop", FIRST)))
    step("disabled certificate", lambda: result(client.get_certificate("off-cert")))
    step("certificate policy", lambda: {"subject": client.get_certificate_policy("shop").subject})
    step("certificate operation", operation)
    step("certificate issuers", lambda: [i.id for i in client.list_properties_of_issuers()])
    step("certificate contacts", client.get_contacts)
    step("certificates", lambda: [c.id for c in client.list_properties_of_certificates()])
    step("certificate versions", lambda: [c.id for c in client.list_properties_of_certificate_versions("shop")])
    step("deleted certificate", deleted)
    step("deleted certificates", lambda: [c.id for c in client.list_deleted_certificates()])
    step("missing certificate", lambda: client.get_certificate("none"))


def refusals(credential):
    def get(vault, name):
        return lambda: SecretClient(vault, credential).get_secret(name).value

    step("missing secret", get(VAULT, "none"))
    step("disabled secret", get(VAULT, "off"))
    step("name of no secret", get(VAULT, "no_name"))
    step("forbidden by role", get("https://fabrikam.vault.azure.net", "db"))
    step("forbidden by policy", get("https://tailspin.vault.azure.net", "db"))
    step("forbidden by firewall", get("https://closed.vault.azure.net", "db"))
    step("throttled once", get(VAULT, "busy"))
    step("missing deleted secret", lambda: SecretClient(VAULT, credential).get_deleted_secret("db"))
    step("deleted secret that never was", lambda: SecretClient(VAULT, credential).get_deleted_secret("none"))
    step("missing key", lambda: KeyClient(VAULT, credential).get_key("none"))


def credentials():
    tenant, client = os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"]
    none = "99999999-9999-9999-9999-999999999999"

    def token(variable):
        path = os.environ[variable]

        def read():
            with open(path, encoding="utf-8") as f:
                return f.read()

        return read

    def read(make):
        return lambda: SecretClient(VAULT, make()).get_secret("db").value

    step("default credential", read(DefaultAzureCredential))
    # WorkloadIdentityCredential is in azure-identity 1.14 and newer
    step(
        "federated token",
        read(lambda: ClientAssertionCredential(tenant, client, token("AZURE_FEDERATED_TOKEN_FILE"))),
    )
    step(
        "client certificate",
        read(lambda: CertificateCredential(tenant, client, os.environ["CLIENTS_CERTIFICATE"])),
    )
    # without its variable: else this credential takes the federated token
    del os.environ["AZURE_FEDERATED_TOKEN_FILE"]
    step("managed identity", read(ManagedIdentityCredential))
    step(
        "managed identity by client ID",
        read(lambda: ManagedIdentityCredential(client_id=os.environ["CLIENTS_IDENTITY"])),
    )
    step("managed identity that is none", read(lambda: ManagedIdentityCredential(client_id=none)))
    step("wrong client secret", read(lambda: ClientSecretCredential(tenant, client, "wrong")))
    step("unknown client", read(lambda: ClientSecretCredential(tenant, none, "wrong")))
    step("unknown tenant", lambda: ClientSecretCredential(none, client, "wrong").get_token(SCOPE))
    step(
        "federated token of another subject",
        read(lambda: ClientAssertionCredential(tenant, client, token("CLIENTS_OTHER_TOKEN"))),
    )


def main():
    credential = EnvironmentCredential()
    read_secrets(credential)
    read_keys(credential)
    read_certificates(credential)
    refusals(credential)
    credentials()


if __name__ == "__main__":
    main()
