package render

import "slices"

// The functions of this project that have a name here. Those that readsFiles names take paths, the others values only.
const (
	// FuncFile returns a file's content.
	FuncFile = "file"
	// FuncHasFile returns whether a file exists.
	FuncHasFile = "hasFile"
	// FuncFiles returns the paths that match a pattern.
	FuncFiles = "files"
	// FuncJSON returns a file's content as JSON.
	FuncJSON = "json"
	// FuncPKCS12 returns a PKCS#12 key store of a file with a private key and its certificates.
	FuncPKCS12 = "pkcs12"
	// FuncJKS returns a Java key store of the same.
	FuncJKS = "jks"
	// FuncCertificates returns the certificates of a file as PEM.
	FuncCertificates = "pemCertificates"
	// FuncKey returns the private key of a file as PEM.
	FuncKey = "pemKey"
	// FuncAuthorities returns the CA certificates of files as PEM.
	FuncAuthorities = "caBundle"
	// FuncPKCS12Trust returns a PKCS#12 trust store of certificates in PEM.
	FuncPKCS12Trust = "pkcs12TrustStore"
	// FuncJKSTrust returns a Java trust store of the same.
	FuncJKSTrust = "jksTrustStore"
	// FuncFromYAML reads text as YAML.
	FuncFromYAML = "fromYaml"
	// FuncToYAML writes a value as YAML.
	FuncToYAML = "toYaml"
	// FuncFromJSON reads text as JSON.
	FuncFromJSON = "fromJson"
	// FuncFail fails the template.
	FuncFail = "fail"
)

// readsFiles says how many of a function's first arguments are paths; -1 means all.
var readsFiles = map[string]int{
	FuncFile: 1, FuncHasFile: 1, FuncFiles: 1, FuncJSON: 1, FuncPKCS12: 1, FuncJKS: 1, FuncCertificates: 1, FuncKey: 1,
	FuncAuthorities: -1,
}

// builtin are the functions of text/template itself.
var builtin = []string{
	"and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print", "printf", "println", "slice",
	"urlquery",
}

// own are the functions of this project.
var own = []string{
	FuncFile, FuncHasFile, FuncFiles, FuncJSON, FuncPKCS12, FuncJKS, FuncCertificates, FuncKey, FuncAuthorities, FuncPKCS12Trust,
	FuncJKSTrust, FuncFromYAML, FuncToYAML, FuncFromJSON, FuncFail,
}

// library are the functions of Sprig that depend on their arguments alone.
var library = []string{
	// text
	"cat", "contains", "hasPrefix", "hasSuffix", "indent", "lower", "nindent", "plural", "quote", "repeat", "replace", "squote", "substr",
	"title", "toString", "toStrings", "trim", "trimAll", "trimPrefix", "trimSuffix", "trunc", "upper",
	// numbers
	"add", "add1", "atoi", "ceil", "div", "float64", "floor", "int", "int64", "max", "maxf", "min", "minf", "mod", "mul", "round", "seq",
	"sub", "toDecimal", "until", "untilStep",
	// lists
	"append", "chunk", "compact", "concat", "first", "has", "initial", "join", "last", "list", "prepend", "rest", "reverse", "sortAlpha",
	"split", "splitList", "splitn", "uniq", "without",
	// objects
	"dict", "dig", "get", "hasKey", "keys", "omit", "pick", "pluck", "set", "unset", "values",
	// choices
	"all", "any", "coalesce", "deepEqual", "default", "empty", "kindIs", "kindOf", "ternary",
	// encodings and sums
	"adler32sum", "b32dec", "b32enc", "b64dec", "b64enc", "sha1sum", "sha256sum", "toJson", "toPrettyJson", "toRawJson",
	// paths and URLs
	"base", "clean", "dir", "ext", "isAbs", "urlJoin", "urlParse",
	// regular expressions
	"regexFind", "regexFindAll", "regexMatch", "regexQuoteMeta", "regexReplaceAll", "regexReplaceAllLiteral", "regexSplit",
}

// LibraryFunctions returns the names of the functions that Sprig has and templates may use, sorted.
func LibraryFunctions() []string { return slices.Sorted(slices.Values(library)) }

// OwnFunctions returns the names of the functions that this project adds, sorted.
func OwnFunctions() []string { return slices.Sorted(slices.Values(own)) }

// Functions returns the names of all functions, sorted.
func Functions() []string { return slices.Sorted(slices.Values(slices.Concat(builtin, own, library))) }

// withheld returns why templates cannot use a function that Helm users know; empty where it is not one of those.
func withheld(name string) string {
	switch name {
	case "env", "expandenv":
		return "it reads the environment"
	case "getHostByName":
		return "it uses the network"
	case "now", "date", "dateInZone", "date_in_zone", "dateModify", "date_modify", "ago", "htmlDate", "htmlDateInZone", "unixEpoch", "toDate":
		return "it depends on the time"
	case "randAlphaNum", "randAlpha", "randAscii", "randNumeric", "randBytes", "randInt", "uuidv4", "shuffle", "bcrypt", "htpasswd",
		"encryptAES":
		return "its result is random, so each node would have another file"
	case "genPrivateKey", "genCA", "genCAWithKey", "genSelfSignedCert", "genSelfSignedCertWithKey", "genSignedCert",
		"genSignedCertWithKey", "derivePassword":
		return "keys are made in the vault"
	case "lookup", "include", "tpl", "Files", "Capabilities":
		return "it is Helm's own"
	}
	return ""
}
