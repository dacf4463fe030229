// Package class reads the parameters of a SecretProviderClass: it turns text into a typed Class, and reports every mistake at
// once.
//
// Parameters are read as the Azure provider reads them (https://azure.github.io/secrets-store-csi-driver-provider-azure/docs): each is
// trimmed, and objects is a YAML document whose key array holds strings, each of which is a YAML document of its own. yaml.go
// holds what that means for odd YAML: merge keys, aliases, null items, tags, several documents.
//
// Parsing is bounded, because any user of a namespace may write a class: the number and size of parameters, the number of objects, and
// the size of each. A version history is not expanded into files: clashes of paths are found without it.
//
// A Mistake stops the mount; a warning does not. Both carry the object's index and the line in the parameter's text, for
// keyvault-csi validate.
package class
