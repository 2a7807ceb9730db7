#!/usr/bin/env bash
# A certificate authority and one server certificate for the hosts named as arguments. Runs once: what is in the
# folder stays. The authority's key is thrown away when it has signed.
set -euo pipefail

folder=${CERTIFICATES:-/certificates}
owner=${OWNER-postgres}
cd "$folder"
[ -f server.crt ] && exit 0

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
curve=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)

openssl req -x509 "${curve[@]}" -days 3650 -subj "/CN=pgambassador compose" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$scratch/ca.key" -out "$scratch/ca.pem"

names=$(printf ',DNS:%s' "$@")
cat > "$scratch/extensions" <<END
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = ${names#,}
END
openssl req "${curve[@]}" -subj "/CN=$1" -keyout "$scratch/server.key" -out "$scratch/server.csr"
openssl x509 -req -in "$scratch/server.csr" -days 3650 -extfile "$scratch/extensions" \
    -CA "$scratch/ca.pem" -CAkey "$scratch/ca.key" -CAcreateserial -out "$scratch/server.crt"

chmod 600 "$scratch/server.key"
[ -z "$owner" ] || chown "$owner" "$scratch/server.key"
# server.crt last: it is the sign that all is there.
for name in ca.pem server.key server.crt; do
    mv "$scratch/$name" "$folder/$name"
done
