// Package cloud knows the Azure clouds: where identities are proven and what vaults are called.
package cloud

// Cloud is one Azure cloud.
type Cloud struct {
	// Name is the canonical name, such as AzurePublicCloud.
	Name string
	// Authority is the base URL of Entra ID (or AD FS), with a trailing slash.
	Authority string
	// VaultSuffix is the DNS suffix of vaults, without a leading dot.
	VaultSuffix string
	// Scope is the OAuth scope of the vault service, such as https://vault.azure.net/.default.
	Scope string
}
