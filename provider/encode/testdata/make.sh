#!/bin/sh
# Makes the test vectors of this directory with programs that share no code with the package: OpenSSL 3 and Java 17 or
# later. Run it from anywhere; the vectors are checked in, so that the tests need Go alone. All keys are for tests only.
#
#   pki/   keys (PKCS#8) and certificates in PEM, as openssl writes them; they are what the tests expect, byte for byte
#   pfx/   the same in PKCS#12, in the encryptions that are met in the wild; the password is empty unless the name says so
set -eu
cd "$(dirname "$0")"
rm -rf pki pfx
mkdir pki pfx
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/ext" <<'EXT'
[root]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid:always
[ca]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
[leaf]
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=DNS:vectors.example
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
[plainca]
basicConstraints=critical,CA:TRUE
subjectKeyIdentifier=none
authorityKeyIdentifier=none
[plainleaf]
basicConstraints=critical,CA:FALSE
subjectKeyIdentifier=none
authorityKeyIdentifier=none
EXT

# genkey NAME ALGORITHM OPTION...
genkey() {
	name=$1; algorithm=$2; shift 2
	openssl genpkey -quiet -algorithm "$algorithm" "$@" -out "pki/$name.key" 2>/dev/null ||
		openssl genpkey -algorithm "$algorithm" "$@" -out "pki/$name.key" 2>/dev/null
}
# root NAME EXTENSIONS SUBJECT
root() {
	openssl req -new -key "pki/$1.key" -subj "/CN=$3" -out "$work/csr"
	openssl x509 -req -in "$work/csr" -signkey "pki/$1.key" -sha256 -days 36500 -set_serial "$serial" \
		-extfile "$work/ext" -extensions "$2" -out "pki/$1.pem" 2>/dev/null
	serial=$((serial + 1))
}
# issue NAME KEY ISSUER EXTENSIONS SUBJECT DAYS
issue() {
	openssl req -new -key "pki/$2.key" -subj "/CN=$5" -out "$work/csr"
	openssl x509 -req -in "$work/csr" -CA "pki/$3.pem" -CAkey "pki/$3.key" -sha256 -days "$6" -set_serial "$serial" \
		-extfile "$work/ext" -extensions "$4" -out "pki/$1.pem" 2>/dev/null
	serial=$((serial + 1))
}
serial=1000

genkey root EC -pkeyopt ec_paramgen_curve:P-384
root root root 'Vectors Root'
genkey root2 EC -pkeyopt ec_paramgen_curve:P-256
root root2 root 'Vectors Other Root'
genkey intermediate EC -pkeyopt ec_paramgen_curve:P-256
issue intermediate intermediate root ca 'Vectors Intermediate' 36400
issue intermediate-cross intermediate root2 ca 'Vectors Intermediate' 36400
genkey rsa RSA -pkeyopt rsa_keygen_bits:2048
issue rsa rsa intermediate leaf vectors.example 36300
genkey ec EC -pkeyopt ec_paramgen_curve:P-256
issue ec ec intermediate leaf vectors.example 36300
genkey ec521 EC -pkeyopt ec_paramgen_curve:P-521
issue ec521 ec521 intermediate leaf vectors.example 36300
genkey ed25519 ED25519
issue ed25519 ed25519 intermediate leaf vectors.example 36300
genkey self EC -pkeyopt ec_paramgen_curve:P-256
root self leaf self.example
# A chain without key identifiers: only names and signatures tell its order.
genkey plain-root EC -pkeyopt ec_paramgen_curve:P-256
root plain-root plainca 'Plain Root'
genkey plain-ca EC -pkeyopt ec_paramgen_curve:P-256
issue plain-ca plain-ca plain-root plainca 'Plain CA' 36400
genkey plain-leaf EC -pkeyopt ec_paramgen_curve:P-256
issue plain-leaf plain-leaf plain-ca plainleaf plain.example 36300
genkey k256 EC -pkeyopt ec_paramgen_curve:secp256k1
root k256 leaf k256.example

for name in rsa ec ed25519; do
	openssl pkey -in "pki/$name.key" -aes256 -passout pass:secret -out "pki/$name.encrypted.key"
done
openssl rsa -in pki/rsa.key -traditional -out pki/rsa.pkcs1.key 2>/dev/null
openssl rsa -in pki/rsa.key -traditional -aes128 -passout pass:secret -out pki/rsa.legacy-encrypted.key 2>/dev/null
openssl ec -in pki/ec.key -out pki/ec.sec1.key 2>/dev/null
openssl ecparam -name prime256v1 -out pki/ec.params.pem
for name in rsa ec ec521; do
	openssl pkey -in "pki/$name.key" -pubout -out "pki/$name.pub"
done

# p12 FILE LEAF OPTION...: key, leaf, and then the root before the intermediate, so that the order of the file is not right.
cat pki/root.pem pki/intermediate.pem >"$work/issuers"
p12() {
	file=$1; leaf=$2; shift 2
	openssl pkcs12 -export -inkey "pki/$leaf.key" -in "pki/$leaf.pem" -certfile "$work/issuers" -name "$leaf" \
		-passout "pass:${password:-}" -out "pfx/$file.pfx" "$@"
}
rc2='-legacy -certpbe PBE-SHA1-RC2-40 -keypbe PBE-SHA1-3DES -macalg sha1'
p12 openssl1 rsa $rc2
p12 keyvault rsa $rc2 -iter 2000 -nomaciter
p12 keyvault-ec ec $rc2 -iter 2000 -nomaciter
p12 rc2-128 rsa -legacy -certpbe PBE-SHA1-RC2-128 -keypbe PBE-SHA1-RC2-128 -macalg sha1
p12 rc2-40-key rsa -legacy -certpbe PBE-SHA1-RC2-40 -keypbe PBE-SHA1-RC2-40 -macalg sha1
p12 2des rsa -legacy -certpbe PBE-SHA1-2DES -keypbe PBE-SHA1-2DES -macalg sha1
p12 3des rsa -legacy -certpbe PBE-SHA1-3DES -keypbe PBE-SHA1-3DES -macalg sha1
p12 3des-sha256 rsa -legacy -certpbe PBE-SHA1-3DES -keypbe PBE-SHA1-3DES -macalg sha256
p12 openssl3 rsa
p12 openssl3-ec ec
p12 openssl3-ec521 ec521
p12 openssl3-ed25519 ed25519
p12 aes128 rsa -certpbe AES-128-CBC -keypbe AES-128-CBC -macalg sha1
p12 aes192-sha384 rsa -certpbe AES-192-CBC -keypbe AES-192-CBC -macalg sha384
p12 aes256-sha512 rsa -certpbe AES-256-CBC -keypbe AES-256-CBC -macalg sha512
p12 aes256-sha224 rsa -macalg sha224
p12 pbes2-3des rsa -certpbe DES-EDE3-CBC -keypbe DES-EDE3-CBC
p12 many-rounds rsa -iter 600000
p12 no-mac rsa -nomac
p12 no-mac-rc2 rsa -legacy -certpbe PBE-SHA1-RC2-40 -keypbe PBE-SHA1-3DES -nomac
p12 plain-certificates rsa -certpbe NONE
p12 plain rsa -certpbe NONE -keypbe NONE
p12 plain-no-mac rsa -certpbe NONE -keypbe NONE -nomac
password=secret p12 password rsa
password=secret p12 password-rc2 rsa $rc2
password=secret p12 password-no-mac rsa -nomac
cat pki/root.pem pki/rsa.pem pki/intermediate.pem >"$work/all"
openssl pkcs12 -export -nokeys -in "$work/all" -passout pass: -out pfx/no-key.pfx
openssl pkcs12 -export -nokeys -in "$work/all" $rc2 -passout pass: -out pfx/no-key-rc2.pfx
openssl pkcs12 -export -nocerts -inkey pki/rsa.key -passout pass: -out pfx/no-certificate.pfx
openssl pkcs12 -export -inkey pki/self.key -in pki/self.pem -passout pass: -out pfx/self.pfx
openssl pkcs12 -export -inkey pki/k256.key -in pki/k256.pem -passout pass: -out pfx/k256.pfx

# Java writes three forms of its own; the two forms of the empty password can be made by hand only with it.
java MakePFX.java modern java pki pfx
java -Dkeystore.pkcs12.legacy MakePFX.java modern java-legacy pki pfx
java -Dkeystore.pkcs12.legacy MakePFX.java nil nil-password pki pfx
java MakePFX.java secretkey java-secret-key pki pfx
rm -f pki/root2.key pki/plain-root.key pki/plain-ca.key
