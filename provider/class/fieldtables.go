package class

func vaultParameters() []Field {
	return []Field{
		{
			Name: "keyvaultName", Type: "text", Since: v010,
			Meaning: "The vault's name: 3 to 24 letters, digits and hyphens. Its host is the name followed by the cloud's suffix. Required " +
				"unless `keyvaultURI` is set or every object names its own vault.",
		},
		{
			Name: "keyvaultURI", Type: "text", Since: v010,
			Meaning: "The vault's address instead of its name, for private or unusual DNS: `https://HOST/`. The host must end in the " +
				"cloud's vault suffix, or the driver's operator must allow it (`--allowed-vault-hosts`, in the chart `allowedVaultHosts`).",
		},
		{
			Name: "cloudName", Type: "text", Default: "`--cloud` of the driver, AzurePublicCloud", Since: v010,
			Meaning: "`AzurePublicCloud`, `AzureUSGovernmentCloud`, `AzureChinaCloud`, or `AzureStackCloud` for a custom cloud; upper " +
				"and lower case are the same.",
		},
		{
			Name: "cloudEnvFileName", Type: "text", Since: v010,
			Meaning: "For `AzureStackCloud`: the JSON file that describes the cloud, relative to the driver's `--cloud-config-dir` " +
				"(in the chart `cloudConfig`), or absolute and below it. The keys `name`, `activeDirectoryEndpoint`, `keyVaultEndpoint` and `keyVaultDNSSuffix` are read.",
		},
		{
			Name: "fallbackKeyvaultNames", Type: "list", Since: v010,
			Meaning: "Names of vaults, separated by commas, that are asked in this order for a Pod that starts while the vault before them " +
				"cannot be reached or throttles; at most 5. Applies to objects that name no vault of their own. See " +
				"[fallback vaults](#optional-objects-and-fallback-vaults).",
		},
	}
}

func identityParameters() []Field {
	return []Field{
		{
			Name: "tenantID", Type: "text", Since: v010,
			Meaning: "The Entra ID tenant: its id or a domain of it; `adfs` for AD FS. Required, except for managed identities.",
		},
		{Name: "tenantId", Type: "text", Since: v010, Meaning: "An older spelling of `tenantID`."},
		{
			Name: "clientID", Type: "text", Since: v010,
			Meaning: "Workload identity and identity binding: the client id of the application or user-assigned identity that has a " +
				"federated credential for the Pod's service account. With the driver's flag `--service-account-annotations`, the " +
				"ServiceAccount's annotations `azure.workload.identity/client-id` and `azure.workload.identity/tenant-id` are used if the " +
				"class does not set them.",
		},
		{
			Name: "useVMManagedIdentity", Type: "boolean", Default: `"false"`, Since: v010,
			Meaning: "Use a managed identity of the node. The driver's operator decides which namespaces may use it (in the chart " +
				"`nodeIdentity`; by default all): see [security](security.md#the-nodes-identity).",
		},
		{
			Name: "userAssignedIdentityID", Type: "text", Since: v010,
			Meaning: "With `useVMManagedIdentity`: the client id, or the resource id (`/subscriptions/…`), of a user-assigned identity. " +
				"Without it, the system-assigned one.",
		},
		{
			Name: "userAssignedIdentityObjectID", Type: "text", Since: v010,
			Meaning: "With `useVMManagedIdentity`: the object id of a user-assigned identity.",
		},
		{
			Name: "useAzureTokenProxy", Type: "boolean", Default: `"false"`, Since: v010,
			Meaning: "AKS identity binding: tokens are requested from the cluster's token proxy. Requires `clientID` and a token for the " +
				"audience `api://AKSIdentityBinding`.",
		},
		{
			Name: "usePodIdentity", Type: "boolean", Default: `"false"`, Since: v010,
			Meaning: "Not supported: AAD Pod Identity was archived. `\"true\"` is an error that names [workload identity](migration.md).",
		},
	}
}

func freshnessParameters() []Field {
	return []Field{
		{
			Name: "rotationInterval", Type: "duration", Default: "`--rotation-interval` of the driver, 2m", Since: v010,
			Meaning: "How often mounted objects are refreshed: a duration of at least `10s`, or `off`.",
		},
		{
			Name: "staleIfError", Type: "duration", Default: "off", Since: v010,
			Meaning: "How old the last known good values may be with which a new Pod starts while the vault or Entra ID cannot be reached " +
				"or throttles: at most `24h`. A Pod that can start with them asks once, and not at all a vault that could not be reached in the last 30 seconds. " +
				"They are not used after a refusal (401, 403, 404, disabled). The driver keeps values in " +
				"memory only for classes that set this, or that list.",
		},
		{
			Name: "changeDetection", Type: "text", Default: "`get`", Since: v010,
			Meaning: "`get`: a poll gets each object. `list`: a poll lists the vault's objects, and gets those that changed: see " +
				"[change detection](#change-detection-by-list).",
		},
	}
}

func fileParameters() []Field {
	return []Field{
		{
			Name: "objects", Type: "YAML", Since: v010,
			Meaning: "What to fetch: see [objects](#objects).",
		},
		{
			Name: "filePermission", Type: "file mode", Default: "`0644`", Since: v010,
			Meaning: "The mode of all files for which nothing else is said: octal digits from 0000 to 0777.",
		},
		{
			Name: "fileOwner", Type: "whole number", Default: "0", Since: v010,
			Meaning: "The numeric user id that owns all files for which nothing else is said.",
		},
		{
			Name: "fileGroup", Type: "whole number", Default: "0", Since: v010,
			Meaning: "The numeric group id of all files for which nothing else is said. The Pod's `fsGroup` goes before it.",
		},
		{
			Name: "metadataFile", Type: "text", Since: v010,
			Meaning: "The path of a JSON file that describes the other files, without values: see [metadata](#metadata).",
		},
		{
			Name: "templates", Type: "YAML", Since: v010,
			Meaning: "Files that are made from the files of objects: see [templates](#templates).",
		},
	}
}

func objectFields() []Field {
	return []Field{
		{Name: "objectName", Type: "text", Since: v010, Meaning: "The object's name in the vault: 1 to 127 letters, digits and hyphens."},
		{
			Name: "objectType", Type: "text", Since: v010,
			Meaning: "`secret`, `key` or `cert`, in lower case. The next table shows the file of each type.",
		},
		{
			Name: "objectAlias", Type: "text", Default: "`objectName`", Since: v010,
			Meaning: "The file's path in the volume, which may contain directories: relative, without `..`, `.` and empty elements.",
		},
		{
			Name: "objectSelector", Type: "mapping", Since: v010,
			Meaning: "Instead of `objectName`: takes all objects of the type that match. See [selecting objects](#selecting-objects).",
		},
		{
			Name: "objectVersion", Type: "text", Default: "the current one", Since: v010,
			Meaning: "A version's id, or `latest`. Also `latestEnabled`: the newest version that is enabled, where the newest " +
				"is disabled. `latestEnabled` requires the permission to list.",
		},
		{
			Name: "objectVersionHistory", Type: "whole number", Default: "0", Since: v010,
			Meaning: "With 2 or more: that many of the newest enabled versions, from `objectVersion` on, as files `0` (the newest), `1`, … " +
				"in a directory with the file's name. Requires the permission to list. At most 500.",
		},
		{
			Name: "objectFormat", Type: "text", Default: "`pem`", Since: v010,
			Meaning: "Certificate-backed secrets: `pem` or `pfx`. Also `ca`: see [trust bundles](#trust-bundles).",
		},
		{
			Name: "objectEncoding", Type: "text", Default: "`utf-8`", Since: v010,
			Meaning: "Secrets: `utf-8` writes the text as it is, `base64` and `hex` write the bytes that it encodes.",
		},
		{
			Name: "filePermission", Type: "file mode", Default: "the class's, `0644`", Since: v010,
			Meaning: "The file's mode: octal digits from 0000 to 0777. A mode with an execute bit makes the volume's mount executable.",
		},
		{
			Name: "fileOwner", Type: "whole number", Default: "the class's, 0", Since: v010,
			Meaning: "The numeric user id that owns the file.",
		},
		{
			Name: "fileGroup", Type: "whole number", Default: "the Pod's `fsGroup`, the class's, 0", Since: v010,
			Meaning: "The numeric group id of the file. It goes before the Pod's `fsGroup`.",
		},
		{
			Name: "keyvaultName", Type: "text", Default: "the class's", Since: v010,
			Meaning: "The vault of this object. A class can use several vaults.",
		},
		{
			Name: "keyvaultURI", Type: "text", Default: "the class's", Since: v010,
			Meaning: "The address of this object's vault, as the parameter of this name.",
		},
		{
			Name: "optional", Type: "boolean", Default: "false", Since: v010,
			Meaning: "If the object does not exist or is disabled, the Pod starts without its file; the file appears when the object does. " +
				"See [optional objects](#optional-objects-and-fallback-vaults).",
		},
		{
			Name: "fallbackKeyvaultNames", Type: "list", Default: "the class's", Since: v010,
			Meaning: "As the parameter of this name, for this object.",
		},
		{
			Name: "writeCertAndKeyInSeparateFiles", Type: "boolean", Default: "the driver's flag of that name, false", Since: v010,
			Meaning: "Certificate-backed secrets: write `<file>.crt` and `<file>.key` too.",
		},
		{
			Name: "convertPFX", Type: "boolean", Default: "false", Since: v010,
			Meaning: "Convert a PFX that was uploaded as a secret (content type `application/x-pkcs12`, not part of a Key Vault " +
				"certificate) to PEM.",
		},
		{
			Name: "jmesPath", Type: "list", Since: v010,
			Meaning: "Secrets: files that are made of fields of the value. See [fields of a value](#fields-of-a-value).",
		},
		{
			Name: "excludeObjectName", Type: "boolean", Default: "false", Since: v010,
			Meaning: "With `jmesPath`: the whole value is not written.",
		},
		{
			Name: "fields", Type: "text", Since: v010,
			Meaning: "Secrets: `all` writes every field of the value's top level as a file in a directory with the file's name, and not " +
				"the whole value.",
		},
		{
			Name: "contentFormat", Type: "text", Default: "`json`", Since: v010,
			Meaning: "With `jmesPath` or `fields`: how the value is read: `json`, `yaml`, `dotenv` or `properties`.",
		},
	}
}

func selectorFields() []Field {
	return []Field{
		{
			Name: "name", Type: "text", Default: "every name", Since: v010,
			Meaning: "A pattern for the whole name, in which `*` is any text and `?` any character, or a regular expression between " +
				"slashes, `/^db-/`, which matches anywhere in the name ([RE2](https://github.com/google/re2/wiki/Syntax)). Upper and lower " +
				"case are the same, as in Key Vault.",
		},
		{
			Name: "tags", Type: "mapping", Default: "none", Since: v010,
			Meaning: "Tags that the object must have, all of them. An empty value: the tag exists, with any value.",
		},
		{
			Name: "limit", Type: "whole number", Default: "200", Since: v010,
			Meaning: "How many objects may match, at most 1000. More are an error that says how many matched.",
		},
		{
			Name: "managed", Type: "boolean", Default: "false", Since: v010,
			Meaning: "Secrets and keys: take those that belong to a certificate too.",
		},
	}
}

func entryFields() []Field {
	return []Field{
		{
			Name: "path", Type: "text", Since: v010,
			Meaning: "A [JMESPath](https://jmespath.org) expression, such as `database.password`.",
		},
		{Name: "objectAlias", Type: "text", Since: v010, Meaning: "The file's path in the volume."},
		{
			Name: "filePermission", Type: "file mode", Default: "the object's", Since: v010,
			Meaning: "The file's mode.",
		},
		{
			Name: "optional", Type: "boolean", Default: "false", Since: v010,
			Meaning: "If the expression matches nothing, or null, the file is left out. Otherwise that is an error.",
		},
	}
}

func templateFields() []Field {
	return []Field{
		{Name: "path", Type: "text", Since: v010, Meaning: "The file's path in the volume."},
		{Name: "template", Type: "text", Since: v010, Meaning: "The template, at most 64 KiB."},
		{
			Name: "filePermission", Type: "file mode", Default: "the class's, `0644`", Since: v010,
			Meaning: "The file's mode.",
		},
		{Name: "fileOwner", Type: "whole number", Default: "the class's, 0", Since: v010, Meaning: "The numeric user id that owns the file."},
		{
			Name: "fileGroup", Type: "whole number", Default: "the Pod's `fsGroup`, the class's, 0", Since: v010,
			Meaning: "The numeric group id of the file.",
		},
	}
}
