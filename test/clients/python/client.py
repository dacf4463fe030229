"""Makes the reads and writes of test/clients with Microsoft's Python clients, as any program uses them: all that it
knows of the emulator is in its environment. Prints a JSON line for each step."""

import base64
import hashlib
import json
import os
from datetime import datetime, timezone

from azure.core.exceptions import HttpResponseError
from azure.identity import (
    CertificateCredential,
    ClientAssertionCredential,
    ClientSecretCredential,
    DefaultAzureCredential,
    EnvironmentCredential,
    ManagedIdentityCredential,
)
from azure.keyvault.certificates import CertificateClient, CertificateContact, CertificatePolicy
from azure.keyvault.keys import JsonWebKey, KeyClient, KeyRotationLifetimeAction, KeyRotationPolicy
from azure.keyvault.keys.crypto import CryptographyClient
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


def write_secrets(credential):
    client = SecretClient(VAULT, credential)

    def remove():
        client.begin_delete_secret("made").wait()

    def value():
        return client.get_secret("made").value

    def create():
        s = client.set_secret(
            "made",
            "v1",
            tags={"a": "b"},
            enabled=True,
            expires_on=datetime.fromtimestamp(2100000000, timezone.utc),
        )
        p = s.properties
        return {
            "value": s.value,
            "tags": p.tags,
            "expires": seconds(p.expires_on),
            "enabled": p.enabled,
        }

    def update():
        p = client.update_secret_properties("made", tags={"c": "d"})
        return {"tags": p.tags, "enabled": p.enabled}

    def restore():
        backup = client.backup_secret("made")
        remove()
        client.purge_deleted_secret("made")
        client.restore_secret_backup(backup)
        return value()

    def recover():
        remove()
        client.begin_recover_deleted_secret("made").wait()
        return value()

    def reuse():
        remove()
        client.set_secret("made", "v2")

    step("set secret", create)
    step("update secret", update)
    step("restore secret", restore)
    step("recover secret", recover)
    step("set a deleted secret", reuse)
    step("malformed backup", lambda: client.restore_secret_backup(b"non-existing"))


def write_keys(credential):
    client = KeyClient(VAULT, credential)

    def use(name):
        return CryptographyClient(client.get_key(name), credential)

    def signed(name, algorithm):
        digest = hashlib.sha256(b"text").digest()

        def run():
            key = use(name)
            return key.verify(algorithm, digest, key.sign(algorithm, digest).signature).is_valid

        return run

    def create():
        rsa = client.create_rsa_key("made-rsa", size=2048)
        ec = client.create_ec_key("made-ec", curve="P-256")
        return [rsa.key_type, len(rsa.key.n), ec.key_type, ec.key.crv]

    def imported():
        def raw(text):
            return base64.urlsafe_b64decode(text + "=")

        k = client.import_key(
            "imported",
            JsonWebKey(  # RFC 7515, appendix A.3
                kty="EC",
                crv="P-256",
                x=raw("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
                y=raw("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
                d=raw("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"),
            ),
        )
        return {"type": k.key_type, "curve": k.key.crv}

    def encrypt():
        key = use("made-rsa")
        return key.decrypt("RSA-OAEP-256", key.encrypt("RSA-OAEP-256", b"plaintext").ciphertext).plaintext.decode()

    def wrap():
        key = use("made-rsa")
        return key.unwrap_key("RSA-OAEP", key.wrap_key("RSA-OAEP", b"key").encrypted_key).key.decode()

    def rotate():
        action = KeyRotationLifetimeAction("Rotate", time_after_create="P30D")
        policy = client.update_key_rotation_policy(
            "made-ec", KeyRotationPolicy(), expires_in="P90D", lifetime_actions=[action]
        )
        p = client.rotate_key("made-ec").properties
        return {
            "actions": len(policy.lifetime_actions),
            "days": round((p.expires_on - p.created_on).total_seconds() / 86400),
        }

    def update():
        k = client.update_key_properties("made-ec", enabled=False, key_operations=["verify"])
        return {"enabled": k.properties.enabled, "operations": list(k.key_operations)}

    def restore():
        backup = client.backup_key("imported")
        client.begin_delete_key("imported").wait()
        client.purge_deleted_key("imported")
        return client.restore_key_backup(backup).key.crv

    step("create keys", create)
    step("import key", imported)
    step("sign with RS256", signed("made-rsa", "RS256"))
    step("sign with PS256", signed("made-rsa", "PS256"))
    step("sign with ES256", signed("imported", "ES256"))
    step("encrypt and decrypt", encrypt)
    step("wrap and unwrap", wrap)
    step("rotate key", rotate)
    step("update key", update)
    step("restore key", restore)


def write_certificates(credential):
    client = CertificateClient(VAULT, credential)
    pem = "application/x-pem-file"

    def secret():
        return SecretClient(VAULT, credential).get_secret("made-cert").value

    def create():
        policy = CertificatePolicy(
            issuer_name="Self",
            subject="CN=made.example",
            san_dns_names=["made.example"],
            key_type="EC",
            key_curve_name="P-256",
            exportable=True,
            reuse_key=False,
            content_type=pem,
            validity_in_months=3,
        )
        made = client.begin_create_certificate("made-cert", policy).result()
        return {
            "subject": made.policy.subject,
            "names": made.policy.san_dns_names,
            "contentType": made.policy.content_type,
            "enabled": made.properties.enabled,
            "secret": secret().split("\n", maxsplit=1)[0].strip(),
        }

    def update():
        return client.update_certificate_properties("made-cert", tags={"c": "d"}).properties.tags

    def imported():
        made = client.get_certificate("made-cert")
        policy = CertificatePolicy(issuer_name="Unknown", content_type=pem)
        return client.import_certificate("imported-cert", secret().encode(), policy=policy).cer == made.cer

    def issuer():
        client.create_issuer("issuer", "Test", account_id="user")
        i = client.get_issuer("issuer")
        client.delete_issuer("issuer")
        return f"{i.provider} {i.account_id}"

    def contacts():
        client.set_contacts([CertificateContact(email="one@localhost", name="One")])
        found = client.get_contacts()
        client.delete_contacts()
        return [c.email for c in found]

    def restore():
        before = client.get_certificate("made-cert")
        backup = client.backup_certificate("made-cert")
        client.begin_delete_certificate("made-cert").wait()
        client.purge_deleted_certificate("made-cert")
        return client.restore_certificate_backup(backup).cer == before.cer

    step("create certificate", create)
    step("update certificate", update)
    step("import certificate", imported)
    step("certificate issuer", issuer)
    step("set contacts", contacts)
    step("restore certificate", restore)


def main():
    credential = EnvironmentCredential()
    read_secrets(credential)
    read_keys(credential)
    read_certificates(credential)
    refusals(credential)
    credentials()
    write_secrets(credential)
    write_keys(credential)
    write_certificates(credential)


if __name__ == "__main__":
    main()
