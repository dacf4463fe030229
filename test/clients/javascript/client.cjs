// Makes the reads and writes of test/clients with Microsoft's JavaScript clients, as any program uses them: all that it
// knows of the emulator is in its environment. Prints a JSON line for each step.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const {
  ClientAssertionCredential,
  ClientCertificateCredential,
  ClientSecretCredential,
  DefaultAzureCredential,
  EnvironmentCredential,
  ManagedIdentityCredential,
  WorkloadIdentityCredential,
} = require("@azure/identity");
const { CertificateClient } = require("@azure/keyvault-certificates");
const { CryptographyClient, KeyClient } = require("@azure/keyvault-keys");
const { SecretClient } = require("@azure/keyvault-secrets");

const vault = "https://contoso.vault.azure.net";
const scope = "https://vault.azure.net/.default";
const first = "00000000000000000000000000000001";

async function step(name, run) {
  const out = { step: name };
  try {
    out.result = (await run()) ?? null;
  } catch (e) {
    out.error = { message: e.message };
    if (e.statusCode) {
      out.error.status = e.statusCode;
      out.error.code = e.code;
    }
  }
  console.log(JSON.stringify(out));
}

const seconds = (date) => (date ? date.getTime() / 1000 : null);
const days = (o) => (o.scheduledPurgeDate - o.deletedOn) / 86400000;
const base64 = (bytes) => Buffer.from(bytes).toString("base64");

async function all(pages, id) {
  const found = [];
  for await (const one of pages) found.push(id(one));
  return found;
}

async function readSecrets(credential) {
  const client = new SecretClient(vault, credential);
  const get = (name, version) => async () => {
    const s = await client.getSecret(name, { version });
    const p = s.properties;
    return {
      id: p.id,
      value: s.value,
      contentType: p.contentType ?? null,
      tags: p.tags ?? null,
      enabled: p.enabled,
      created: seconds(p.createdOn),
      updated: seconds(p.updatedOn),
      expires: seconds(p.expiresOn),
      notBefore: seconds(p.notBefore),
      recoveryLevel: p.recoveryLevel,
      managed: p.managed ?? null,
      kid: p.certificateKeyId ?? null,
    };
  };
  await step("secret", get("db"));
  await step("secret version", get("db", first));
  await step("secret of a certificate", get("shop"));
  await step("secrets", () => all(client.listPropertiesOfSecrets(), (s) => s.id));
  await step("secret versions", () => all(client.listPropertiesOfSecretVersions("db"), (s) => s.id));
  await step("deleted secret", async () => {
    const s = await client.getDeletedSecret("gone");
    return { id: s.properties.id, recoveryId: s.recoveryId, days: days(s.properties) };
  });
  await step("deleted secrets", () => all(client.listDeletedSecrets(), (s) => s.properties.id));
}

async function readKeys(credential) {
  const client = new KeyClient(vault, credential);
  const get = (name, version) => async () => {
    const k = await client.getKey(name, { version });
    return {
      id: k.id,
      type: k.keyType,
      curve: k.key.crv ?? null,
      operations: k.keyOperations,
      tags: k.properties.tags ?? null,
      enabled: k.properties.enabled,
      created: seconds(k.properties.createdOn),
      recoveryLevel: k.properties.recoveryLevel,
      managed: k.properties.managed ?? null,
      modulus: k.key.n?.length ?? 0,
      x: k.key.x?.length ?? 0,
      private: (k.key.d?.length ?? 0) > 0,
    };
  };
  await step("key", get("signing"));
  await step("key version", get("signing", first));
  await step("RSA key", get("wrapping"));
  await step("disabled key", get("off"));
  await step("key of a certificate", get("shop"));
  await step("keys", () => all(client.listPropertiesOfKeys(), (k) => k.id));
  await step("key versions", () => all(client.listPropertiesOfKeyVersions("signing"), (k) => k.id));
  await step("key rotation policy", async () => (await client.getKeyRotationPolicy("wrapping")).lifetimeActions.length);
  await step("deleted key", async () => {
    const k = await client.getDeletedKey("gone");
    return { id: k.id, recoveryId: k.properties.recoveryId, days: days(k.properties) };
  });
  await step("deleted keys", () => all(client.listDeletedKeys(), (k) => k.id));
}

async function readCertificates(credential) {
  const client = new CertificateClient(vault, credential);
  const result = (c) => ({
    id: c.properties.id,
    kid: c.keyId,
    sid: c.secretId,
    tags: c.properties.tags ?? null,
    enabled: c.properties.enabled,
    created: seconds(c.properties.createdOn),
    recoveryLevel: c.properties.recoveryLevel,
    x5t: Buffer.from(c.properties.x509Thumbprint).toString("hex"),
    cer: base64(c.cer),
    policy: c.policy
      ? {
          subject: c.policy.subject,
          contentType: c.policy.contentType,
          type: c.policy.keyType,
          issuer: c.policy.issuerName,
        }
      : null,
  });
  const version = (name, v) => async () => result(await client.getCertificateVersion(name, v));
  await step("certificate", async () => result(await client.getCertificate("shop")));
  await step("certificate version", version("shop", first));
  await step("disabled certificate", async () => result(await client.getCertificate("off-cert")));
  await step("certificate policy", async () => ({ subject: (await client.getCertificatePolicy("shop")).subject }));
  await step("certificate operation", async () => {
    const operation = (await client.getCertificateOperation("shop")).getOperationState().certificateOperation;
    return { status: operation.status, target: operation.target };
  });
  await step("certificate issuers", () => all(client.listPropertiesOfIssuers(), (i) => i.id));
  await step("certificate contacts", () => client.getContacts());
  await step("certificates", () => all(client.listPropertiesOfCertificates(), (c) => c.id));
  await step("certificate versions", () => all(client.listPropertiesOfCertificateVersions("shop"), (c) => c.id));
  await step("deleted certificate", async () => {
    const c = await client.getDeletedCertificate("gone-cert");
    return { id: c.properties.id, recoveryId: c.recoveryId, days: (c.scheduledPurgeDate - c.deletedOn) / 86400000 };
  });
  await step("deleted certificates", () => all(client.listDeletedCertificates(), (c) => c.properties.id));
  await step("missing certificate", () => client.getCertificate("none"));
}

async function refusals(credential) {
  const get = (url, name) => async () => (await new SecretClient(url, credential).getSecret(name)).value;
  await step("missing secret", get(vault, "none"));
  await step("disabled secret", get(vault, "off"));
  await step("name of no secret", get(vault, "no_name"));
  await step("forbidden by role", get("https://fabrikam.vault.azure.net", "db"));
  await step("forbidden by policy", get("https://tailspin.vault.azure.net", "db"));
  await step("forbidden by firewall", get("https://closed.vault.azure.net", "db"));
  await step("throttled once", get(vault, "busy"));
  await step("missing deleted secret", () => new SecretClient(vault, credential).getDeletedSecret("db"));
  await step("deleted secret that never was", () => new SecretClient(vault, credential).getDeletedSecret("none"));
  await step("missing key", () => new KeyClient(vault, credential).getKey("none"));
}

async function credentials() {
  const { AZURE_TENANT_ID: tenant, AZURE_CLIENT_ID: client } = process.env;
  const none = "99999999-9999-9999-9999-999999999999";
  const read = (make) => async () => (await new SecretClient(vault, make()).getSecret("db")).value;
  const token = () => fs.promises.readFile(process.env.CLIENTS_OTHER_TOKEN, "utf8");
  await step("default credential", read(() => new DefaultAzureCredential()));
  await step("federated token", read(() => new WorkloadIdentityCredential()));
  await step(
    "client certificate",
    read(() => new ClientCertificateCredential(tenant, client, process.env.CLIENTS_CERTIFICATE)),
  );
  // without its variables: else this credential takes the federated token
  delete process.env.AZURE_FEDERATED_TOKEN_FILE;
  await step("managed identity", read(() => new ManagedIdentityCredential()));
  await step(
    "managed identity by client ID",
    read(() => new ManagedIdentityCredential(process.env.CLIENTS_IDENTITY)),
  );
  await step("managed identity that is none", read(() => new ManagedIdentityCredential(none)));
  await step("wrong client secret", read(() => new ClientSecretCredential(tenant, client, "wrong")));
  await step("unknown client", read(() => new ClientSecretCredential(tenant, none, "wrong")));
  await step("unknown tenant", () => new ClientSecretCredential(none, client, "wrong").getToken(scope));
  await step(
    "federated token of another subject",
    read(() => new ClientAssertionCredential(tenant, client, token)),
  );
}

// Pollers wait for a state that the emulator is in at once.
const done = async (poller) => (await poller).pollUntilDone();

async function writeSecrets(credential) {
  const client = new SecretClient(vault, credential);
  const remove = () => done(client.beginDeleteSecret("made"));
  const value = async () => (await client.getSecret("made")).value;
  await step("set secret", async () => {
    const s = await client.setSecret("made", "v1", {
      tags: { a: "b" },
      enabled: true,
      expiresOn: new Date(2100000000 * 1000),
    });
    const { tags, enabled, expiresOn } = s.properties;
    return { value: s.value, tags, expires: seconds(expiresOn), enabled };
  });
  await step("update secret", async () => {
    const { tags, enabled } = await client.updateSecretProperties("made", "", { tags: { c: "d" } });
    return { tags, enabled };
  });
  await step("restore secret", async () => {
    const backup = await client.backupSecret("made");
    await remove();
    await client.purgeDeletedSecret("made");
    await client.restoreSecretBackup(backup);
    return value();
  });
  await step("recover secret", async () => {
    await remove();
    await done(client.beginRecoverDeletedSecret("made"));
    return value();
  });
  await step("set a deleted secret", async () => {
    await remove();
    await client.setSecret("made", "v2");
  });
  await step("malformed backup", () => client.restoreSecretBackup(Buffer.from("non-existing")));
}

async function writeKeys(credential) {
  const client = new KeyClient(vault, credential);
  const use = async (name) => new CryptographyClient(await client.getKey(name), credential);
  const signed = (name, algorithm) => async () => {
    const key = await use(name);
    const digest = crypto.createHash("sha256").update("text").digest();
    const { result } = await key.sign(algorithm, digest);
    return (await key.verify(algorithm, digest, result)).result;
  };
  await step("create keys", async () => {
    const rsa = await client.createRsaKey("made-rsa", { keySize: 2048 });
    const ec = await client.createEcKey("made-ec", { curve: "P-256" });
    return [rsa.keyType, rsa.key.n.length, ec.keyType, ec.key.crv];
  });
  await step("import key", async () => {
    const raw = (text) => new Uint8Array(Buffer.from(text, "base64url"));
    const k = await client.importKey("imported", {
      kty: "EC", // RFC 7515, appendix A.3
      crv: "P-256",
      x: raw("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
      y: raw("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
      d: raw("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"),
    });
    return { type: k.keyType, curve: k.key.crv };
  });
  await step("sign with RS256", signed("made-rsa", "RS256"));
  await step("sign with PS256", signed("made-rsa", "PS256"));
  await step("sign with ES256", signed("imported", "ES256"));
  await step("encrypt and decrypt", async () => {
    const key = await use("made-rsa");
    const { result } = await key.encrypt("RSA-OAEP-256", Buffer.from("plaintext"));
    return Buffer.from((await key.decrypt("RSA-OAEP-256", result)).result).toString();
  });
  await step("wrap and unwrap", async () => {
    const key = await use("made-rsa");
    const { result } = await key.wrapKey("RSA-OAEP", Buffer.from("key"));
    return Buffer.from((await key.unwrapKey("RSA-OAEP", result)).result).toString();
  });
  await step("rotate key", async () => {
    const policy = await client.updateKeyRotationPolicy("made-ec", {
      expiresIn: "P90D",
      lifetimeActions: [{ action: "Rotate", timeAfterCreate: "P30D" }],
    });
    const { expiresOn, createdOn } = (await client.rotateKey("made-ec")).properties;
    return { actions: policy.lifetimeActions.length, days: Math.round((expiresOn - createdOn) / 86400000) };
  });
  await step("update key", async () => {
    const k = await client.updateKeyProperties("made-ec", "", { enabled: false, keyOps: ["verify"] });
    return { enabled: k.properties.enabled, operations: k.keyOperations };
  });
  await step("restore key", async () => {
    const backup = await client.backupKey("imported");
    await done(client.beginDeleteKey("imported"));
    await client.purgeDeletedKey("imported");
    return (await client.restoreKeyBackup(backup)).key.crv;
  });
}

async function writeCertificates(credential) {
  const client = new CertificateClient(vault, credential);
  const secret = async () => (await new SecretClient(vault, credential).getSecret("made-cert")).value;
  const contentType = "application/x-pem-file";
  await step("create certificate", async () => {
    const made = await done(
      client.beginCreateCertificate("made-cert", {
        issuerName: "Self",
        subject: "CN=made.example",
        subjectAlternativeNames: { dnsNames: ["made.example"] },
        keyType: "EC",
        keyCurveName: "P-256",
        exportable: true,
        reuseKey: false,
        contentType,
        validityInMonths: 3,
      }),
    );
    const p = made.policy;
    return {
      subject: p.subject,
      names: p.subjectAlternativeNames.dnsNames,
      contentType: p.contentType,
      enabled: made.properties.enabled,
      secret: (await secret()).split("\n")[0].trim(),
    };
  });
  await step(
    "update certificate",
    async () => (await client.updateCertificateProperties("made-cert", "", { tags: { c: "d" } })).properties.tags,
  );
  await step("import certificate", async () => {
    const made = await client.getCertificate("made-cert");
    const imported = await client.importCertificate("imported-cert", Buffer.from(await secret()), {
      policy: { contentType },
    });
    return base64(imported.cer) === base64(made.cer);
  });
  await step("certificate issuer", async () => {
    await client.createIssuer("issuer", "Test", { accountId: "user" });
    const issuer = await client.getIssuer("issuer");
    await client.deleteIssuer("issuer");
    return `${issuer.provider} ${issuer.accountId}`;
  });
  await step("set contacts", async () => {
    await client.setContacts([{ email: "one@localhost", name: "One" }]);
    const contacts = await client.getContacts();
    await client.deleteContacts();
    return contacts.map((c) => c.email);
  });
  await step("restore certificate", async () => {
    const before = await client.getCertificate("made-cert");
    const backup = await client.backupCertificate("made-cert");
    await done(client.beginDeleteCertificate("made-cert"));
    await client.purgeDeletedCertificate("made-cert");
    return base64((await client.restoreCertificateBackup(backup)).cer) === base64(before.cer);
  });
}

async function main() {
  const credential = new EnvironmentCredential();
  await readSecrets(credential);
  await readKeys(credential);
  await readCertificates(credential);
  await refusals(credential);
  await credentials();
  await writeSecrets(credential);
  await writeKeys(credential);
  await writeCertificates(credential);
}

main().catch((e) => {
  console.error(e);
  process.exitCode = 1;
});
