// Package cloud knows the Azure clouds: where identities sign in (the authority), what vaults are called (the DNS
// suffix), and what tokens for vaults are asked for (the scope). The public clouds are known by name. A custom cloud,
// such as Azure Stack, is a JSON file below the directory that the driver's operator names; a class can only choose
// among these files.
package cloud
