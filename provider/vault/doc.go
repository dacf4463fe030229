// Package vault asks Azure Key Vault, with the Azure SDK's clients.
//
// A Client is one identity's way to one vault; a Pool keeps clients. Client.Ask answers one question: what an object's
// version is, or which versions an object has. A question is named by a volume.SourceKey. Ask tries again where a Pod
// waits and trying again can help, and explains each failure in one line that says whose fault it is.
//
// The SDK decodes and encodes; four things are done here, as policies and checks around it:
//
//   - authorizer puts the identity's token on requests and answers the vault's challenges. The SDK's own policy would
//     send the first request of each client bare and parse challenges without checking them.
//   - Policies of Options run behind it: the limiter, and TryTimeout, which bounds one try.
//   - An answer must be for the object that was asked for: the id in it names vault, kind, name and version.
//   - Nothing that a vault says in words reaches a message: it may quote a value. Messages are made of the status, of
//     codes that are known, and of the identity's own ids.
package vault
