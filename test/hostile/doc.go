// Package hostile attacks the built driver with services that misbehave. A Server is the emulator of Key Vault, Entra ID and the instance
// metadata service, of which one host can be made hostile: it answers without an end, with a bomb, with somebody else's object, with a
// challenge of another tenant, and so on. The tests go through the CSI socket, as kubelet does. After each attack the driver must live,
// serve its other volumes, and have leaked nothing.
package hostile
