// Package emulatortest starts the Key Vault emulator in the process of a Go test, for tests of programs that use Azure Key Vault.
//
// Any module can use it, with the clients that it has: the emulator answers under the real host names over real TLS, and checks tokens and
// permissions as Entra ID and Key Vault do.
//
//	func TestShop(t *testing.T) {
//		server := emulatortest.Start(t, emulatortest.Seed)
//		options := azcore.ClientOptions{Transport: server.Client()}
//		// azidentity.NewClientSecretCredential(emulatortest.Tenant, emulatortest.ClientID, emulatortest.ClientSecret, ...)
//		// azsecrets.NewClient(emulatortest.VaultURL, ...)
//	}
//
// The example of the package is a whole one. A program that runs as a process of its own gets the variables of [Environment]. [Server] of package emulator has what a
// test changes: SetSecret, Disable, Grant, AddFault, AdvanceClock, Requests and more; docs/emulator.md describes the seed.
//
// Several emulators can run at the same time: they share nothing. A server keeps everything in memory and ends with its test.
//
// What this package and package emulator export changes only as the versions of the module say: not without a new major version once there
// is version 1, and with a line in CHANGELOG.md before.
//
// [Server]: https://pkg.go.dev/github.com/keyvault-csi/keyvault-csi-driver/test/emulator#Server
package emulatortest
