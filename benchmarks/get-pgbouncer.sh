#!/bin/sh
# Unpacks Debian's newest PgBouncer, with the libraries it was built against, into a folder of its own.
#
# Usage: benchmarks/get-pgbouncer.sh [FOLDER [SUITE]]     (default: .cache/pgbouncer sid)
#
# Nothing is installed and the machine's own package lists stay as they are: apt is run with a private
# configuration, and the program is started through the unpacked ld.so by FOLDER/pgbouncer.
set -eu
folder=${1:-.cache/pgbouncer} suite=${2:-sid}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
apt=$folder/apt root=$folder/root
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/parts" "$apt/debs" "$root"

# The mirror and the key are the machine's own.
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 '/debian/\{0,1\}$') || {
    echo "No Debian mirror is configured on this machine: add one to apt's sources and run 'apt-get update'." >&2
    exit 1
}
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
: >"$apt/status"
cat >"$apt/apt.conf" <<EOF
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "$apt/parts";
Dir::State::Lists "$apt/lists";
Dir::State::Status "$apt/status";
Dir::Cache "$apt/cache";
APT::Sandbox::User "";
APT::Install-Recommends "0";
EOF
export APT_CONFIG="$apt/apt.conf"
apt-get -qq update

# Only shared libraries: the package's other dependencies (perl, adduser) serve its service, not the program.
depends() { apt-cache depends --important "$@" | sed -n 's/^ *Depends: \(lib[a-z0-9.+-]*\)$/\1/p'; }
libraries=$(depends pgbouncer)
# shellcheck disable=SC2086
libraries=$(echo "$libraries" && depends --recurse $libraries)
cd "$apt/debs"
# shellcheck disable=SC2046
apt-get -qq download pgbouncer $(echo "$libraries" | sort -u)
for deb in *.deb; do dpkg-deb -x "$deb" "$root"; done

loader=$(find "$root" -name 'ld-linux*.so.*' | head -n1)
directory=$(dirname "$(find "$root" -name 'libssl.so.*' | head -n1)")
printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' \
    "$loader" "$directory" "$root/usr/sbin/pgbouncer" >"$folder/pgbouncer"
chmod 755 "$folder/pgbouncer"
"$folder/pgbouncer" --version
echo "Use it with: PGBOUNCER=$folder/pgbouncer make bench"
